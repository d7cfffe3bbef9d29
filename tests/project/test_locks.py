"""The two lists of pinned versions: what the program needs, and what only its development needs."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import re
import sys
from pathlib import Path

import pytest
from conftest import PROJECT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROGRAM = ("clippo_core", "tasks", "workflows")
PEERS = {
    "atheris",
    "clip_benchmark",
    "faiss",
    "grad_cache",
    "gradcache",
    "inf_cl",
    "mteb",
    "onnxruntime",
    "usearch",
}
"""What an adapter, an index, a benchmark or the fuzzer uses only where it can be imported."""


def pins(name: str) -> dict[str, str]:
    """Versions by package; any line that is neither a comment nor one exact version is an error."""
    lines = (PROJECT / name).read_text().splitlines()
    found = [line for line in lines if line and not line.startswith("#")]
    pairs = [re.fullmatch(r"([a-z0-9-]+)==([\w.]+)", line) for line in found]
    assert all(pairs), [line for line, pair in zip(found, pairs, strict=True) if not pair]
    names = [pair[1] for pair in pairs if pair]
    assert names == sorted(set(names)), f"{name} is not sorted, or names a package twice"
    return dict(pair.groups() for pair in pairs if pair)


RUNTIME, DEVELOPMENT = pins("requirements.lock"), pins("requirements-dev.lock")


def imported(*folders: str) -> dict[str, str]:
    """Packages that files in `folders` import at any depth, with one file that does."""
    files = [path for folder in folders for path in sorted((PROJECT / folder).rglob("*.py"))]
    helpers = {path.stem for path in [*files, *(PROJECT / "tools").glob("*.py")]}
    ours = {*PROGRAM, *PEERS, *sys.stdlib_module_names, *helpers}
    found: dict[str, str] = {}
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in {name.split(".")[0] for name in names} - ours:
                for package in distributions()[name]:
                    found[canonicalize_name(package)] = path.relative_to(PROJECT).as_posix()
    return found


@functools.cache
def distributions() -> dict[str, list[str]]:
    """Packages by the name that they are imported as."""
    return dict(importlib.metadata.packages_distributions())


def needed(package: str, extras: frozenset[str]) -> list[Requirement]:
    """What an installed package needs on Linux under either Python that we support."""
    found = []
    for text in importlib.metadata.distribution(package).requires or []:
        requirement = Requirement(text)
        # CUDA's libraries follow from the build of torch that an index offers; no lock names them.
        if re.match(r"nvidia-|cuda-|triton$", requirement.name):
            continue
        systems = [
            {"python_version": version, "python_full_version": f"{version}.0", "extra": extra}
            for version in ("3.11", "3.12")
            for extra in ("", *extras)
        ]
        marker = requirement.marker
        if marker is None or any(marker.evaluate(system) for system in systems):
            found.append(requirement)
    return found


def closure(roots: set[str]) -> set[str]:
    """`roots` and everything that they need; every version asked for is compared with its pin."""
    pinned, seen = RUNTIME | DEVELOPMENT, set()
    todo = [(root, frozenset[str]()) for root in roots]
    while todo:
        item = todo.pop()
        if item not in seen:
            seen.add(item)
            for requirement in needed(*item):
                name = canonicalize_name(requirement.name)
                assert name in pinned, f"{item[0]} needs {requirement}, and no lock has it"
                assert requirement.specifier.contains(pinned[name], prereleases=True), (
                    f"{item[0]} needs {requirement}, and {name} is pinned to {pinned[name]}"
                )
                todo.append((name, frozenset(requirement.extras)))
    return {name for name, _ in seen}


def test_no_package_is_in_both() -> None:
    assert not RUNTIME.keys() & DEVELOPMENT.keys()


def test_what_is_installed_is_what_is_pinned() -> None:
    for name, version in (RUNTIME | DEVELOPMENT).items():
        installed = importlib.metadata.version(name).partition("+")[0]
        assert installed == version, f"{name} {installed} is installed; run `make setup`"


@pytest.mark.parametrize("folder", PROGRAM)
def test_what_the_program_imports_is_pinned_for_it(folder: str) -> None:
    found = imported(folder)
    assert found
    missing = {name: file for name, file in found.items() if name not in RUNTIME}
    assert not missing, "imported, and not in requirements.lock"


def test_what_tests_and_benchmarks_import_is_pinned() -> None:
    found = imported("tests", "benchmarks")
    missing = {name: file for name, file in found.items() if name not in RUNTIME | DEVELOPMENT}
    assert not missing, "imported, and in neither lock"


def test_the_program_is_pinned_whole_and_without_a_tool_of_development() -> None:
    # `setuptools` builds the project itself.
    assert closure({*imported(*PROGRAM), "setuptools"}) == set(RUNTIME)


def test_development_is_pinned_whole() -> None:
    assert closure(set(RUNTIME | DEVELOPMENT)) == set(RUNTIME | DEVELOPMENT)


def test_pins_of_torch_and_timm_stand_together() -> None:
    assert {"torch", "torchvision", "timm"} <= RUNTIME.keys()


def test_make_setup_installs_both() -> None:
    makefile = (PROJECT / "Makefile").read_text()
    rule = re.search(r"^\$\(VENV\)/\.installed: (.*)\n((?:\t.*\n)+)", makefile, re.M)
    assert rule is not None
    for name in ("requirements.lock", "requirements-dev.lock"):
        assert name in rule[1].split() and f"-r {name}" in rule[2]
        assert Path(PROJECT / name).is_file()
