"""The package that `pip install` gives: what it holds, what it asks for, what it says where an
optional library is missing.
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import time
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import PROJECT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tower_reference import SMALL, perturbed

from clippo_core.errors import ConfigError
from clippo_core.extras import EXTRAS, optional_import

PEERS = {"clip_benchmark", "faiss", "mteb", "usearch"}
"""Used only where somebody installed them: what is adapted to, and graphs for `clippo index`."""
ABOUT = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
OPTIONAL: dict[str, list[str]] = ABOUT["optional-dependencies"]
TOGETHER = {"huggingface_hub": "timm", "torchvision": "timm"}
"""Modules that come with a declared package."""


def locked() -> dict[str, str]:
    """Versions of requirements.lock, by package."""
    lines = (PROJECT / "requirements.lock").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def brought(extra: str) -> set[str]:
    """Packages that an extra names, itself or through another extra."""
    found = set()
    for requirement in map(Requirement, OPTIONAL[extra]):
        if canonicalize_name(requirement.name) == ABOUT["name"]:
            found |= set().union(*(brought(inner) for inner in requirement.extras))
        else:
            found.add(canonicalize_name(requirement.name))
    return found


def test_bounds_agree_with_the_lock() -> None:
    pins = locked()
    for text in [*ABOUT["dependencies"], *sum(OPTIONAL.values(), [])]:
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        if name == ABOUT["name"]:
            continue
        assert requirement.specifier.contains(pins[name]), f"{text}, and {name} is {pins[name]}"
        low = [one.version for one in requirement.specifier if one.operator == ">="]
        assert len(low) == 1 and f"{pins[name]}.".startswith(f"{low[0]}."), (
            f"{text}: its lower bound is not the version that the tests run with, {pins[name]}"
        )


def test_what_an_embedding_needs_and_no_more() -> None:
    names = [Requirement(text).name for text in ABOUT["dependencies"]]
    assert names == ["numpy", "pillow", "safetensors", "timm", "torch", "tqdm"]
    assert list(OPTIONAL) == ["s3", "text", "report", "train", "flyte"]
    distributions = importlib.metadata.packages_distributions()
    for module, extra in EXTRAS.items():
        packages = {canonicalize_name(name) for name in distributions[module]}
        with_them = {name for name in OPTIONAL if packages & closure(brought(name))}
        smallest = min(with_them, key=list(OPTIONAL).index)
        assert smallest == extra, f"{module} comes with {sorted(with_them)}"


def closure(packages: set[str]) -> set[str]:
    """Installed packages that these need, and they themselves."""
    seen: set[str] = set()
    todo = sorted(packages)
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        try:
            texts = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # of another system, or CUDA's where torch is the CPU build
        seen.add(name)
        needed = [one for one in map(Requirement, texts) if not one.marker or one.marker.evaluate()]
        todo += [canonicalize_name(one.name) for one in needed]
    return seen


def test_every_optional_library_is_imported_with_a_sentence_at_hand() -> None:
    declared = {"numpy", "PIL", "safetensors", "timm", "torch", "tqdm"}
    seen = set()
    for path in sorted((PROJECT / "clippo_core").rglob("*.py")):
        tree = ast.parse(path.read_text())
        excused = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, (ast.With, ast.If))
            and ("optional_import()" in head(node) or "TYPE_CHECKING" in head(node))
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = {str(node.module).partition(".")[0]}
            else:
                continue
            seen |= names
            assert id(node) in excused or not names & EXTRAS.keys(), (
                f"{path}:{node.lineno}: put it under `with optional_import():`"
            )
    foreign = seen - sys.stdlib_module_names - declared - EXTRAS.keys() - TOGETHER.keys() - PEERS
    assert foreign == {"clippo_core"}, "not declared in pyproject.toml, or not in EXTRAS"
    assert EXTRAS.keys() - seen == set(), "in EXTRAS, and imported nowhere"


def head(node: ast.With | ast.If) -> str:
    """The condition of an `if`, or the context of a `with`."""
    if isinstance(node, ast.If):
        return ast.unparse(node.test)
    return " ".join(ast.unparse(item) for item in node.items)


def test_a_missing_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with (
        pytest.raises(
            ConfigError, match=r"sentencepiece is not installed; pip install 'clippo-flyte\[text\]'"
        ),
        optional_import(),
    ):
        import sentencepiece  # noqa: F401
    with pytest.raises(ModuleNotFoundError), optional_import():
        importlib.import_module("no_such_module")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy, so that nothing is left in the checkout."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("clippo_core", "tasks", "workflows"):
        shutil.copytree(PROJECT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(PROJECT / name, copy)
    build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    pip(*build, "--wheel-dir", str(copy / "out"), str(copy))
    (found,) = (copy / "out").iterdir()
    return found


def pip(*words: str) -> None:
    """Run pip of this environment."""
    subprocess.run([sys.executable, "-m", "pip", *words], check=True, timeout=1800, env=plain())


def plain() -> dict[str, str]:
    """The environment's variables, but for PYTHONPATH, on which a checkout may lie."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def environment(folder: Path, packages: set[str]) -> Path:
    """The python of a new environment, into which the files of `packages` and of what they need are
    linked from this one, so that nothing is fetched.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = (folder / "lib").glob("python*/site-packages")
    for package in closure(packages):
        distribution = importlib.metadata.distribution(package)
        files = [str(file) for file in distribution.files or []]
        for top in {file.partition("/")[0] for file in files} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(distribution.locate_file(top))))
    return folder / "bin/python"


def test_the_wheel_holds_clippo_core_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (about,) = [name for name in names if name.endswith("/top_level.txt")]
        assert archive.read(about).decode().split() == ["clippo_core"]
        tops = {name.partition("/")[0] for name in names}
        assert tops == {"clippo_core", about.partition("/")[0]}
    held = {name for name in names if name.startswith("clippo_core/")}
    files = [path for path in (PROJECT / "clippo_core").rglob("*") if path.is_file()]
    ours = {
        path.relative_to(PROJECT).as_posix() for path in files if "__pycache__" not in str(path)
    }
    assert held == ours and "clippo_core/py.typed" in held


def test_an_editable_installation_finds_tasks_and_workflows(tmp_path: Path) -> None:
    """As `make setup` makes it: the pipeline is used from the checkout."""
    copy = tmp_path / "checkout"
    copy.mkdir()
    for name in ("clippo_core", "tasks", "workflows"):
        (copy / name).symlink_to(PROJECT / name)
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(PROJECT / name, copy)
    python = environment(tmp_path / "venv", {"setuptools"})
    editable = ["--no-deps", "--no-build-isolation", "--no-index", "--editable", str(copy)]
    pip("--python", str(python), "install", "--quiet", *editable)
    program = "import clippo_core, importlib.util as u; print(u.find_spec('tasks').origin)"
    done = subprocess.run(
        [python, "-c", program], cwd=tmp_path, env=plain(), capture_output=True, text=True
    )
    assert done.stdout.strip() == str(copy / "tasks/__init__.py"), done.stderr
    assert (tmp_path / "venv/bin/clippo").is_file()


def test_torch_comes_from_another_index_where_one_is_named() -> None:
    words = ["make", "--dry-run", "setup", "VENV=/nonexistent", "TORCH_INDEX_URL="]
    plainly = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    words[-1] += "https://index.example/cpu"
    found = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    assert "--index-url" not in plainly
    first, rest = found.split("-r requirements.lock", 1)
    assert '--index-url "https://index.example/cpu"' in first and "--no-deps" in first
    assert "--index-url" not in rest


def commands_in(python: Path, folder: Path) -> None:
    """`clippo` beside this python, in an environment with the declared packages alone."""
    from clippo_core import models
    from clippo_core.config import ModelConfig
    from clippo_core.embedder import Clippo

    tower = perturbed(models.build_tower(ModelConfig(**SMALL), 32))
    models.save_big_vision(tower, str(folder / "m.npz"))
    Clippo.load(str(folder / "m.npz"), "cpu").save(str(folder / "m.safetensors"))

    def clippo(*words: str, given: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [python.with_name("clippo"), *words],
            input=given,
            cwd=folder,
            env=plain(),
            capture_output=True,
            text=True,
            timeout=600,
        )

    version = clippo("--version")
    assert version.stdout.startswith(f"clippo {ABOUT['version']}"), version.stderr
    embed = ("embed", "m.safetensors", "--device", "cpu")
    done = clippo(*embed, "--texts", "-", "--out", "texts.npz", given="a dog\nzwei Hunde\n")
    assert done.returncode == 0 and "2 texts" in done.stdout, done.stderr
    done = clippo("render", "a dog", "--out", "dog.png", "--image-px", "64")
    assert done.returncode == 0, done.stderr
    done = clippo(*embed, "--images", "dog.png", "--out", "images.npz")
    assert done.returncode == 0, done.stderr
    done = clippo("convert", "m.npz", "larger.npz", "--image-px", "64")
    assert done.returncode == 0, done.stderr
    for words, extra in (
        (("promotions", "s3://bucket/runs/promoted-x.json"), "s3"),
        (("tokenizer", "texts.txt", "--out", "x.model"), "text"),
        (("analyse", "lengths", "--texts", "en=texts.txt", "--out", "x.html"), "report"),
    ):
        (folder / "texts.txt").write_text("a dog\n")
        done = clippo(*words)
        assert done.returncode == 2 and f"pip install 'clippo-flyte[{extra}]'" in done.stderr, (
            done.stderr
        )
    program = (
        "import importlib.util as u; print([n for n in ('deepspeed', 'flytekit',"
        " 'great_expectations', 'tasks', 'workflows', 'boto3') if u.find_spec(n)])"
    )
    done = subprocess.run(
        [python, "-c", program], cwd=folder, env=plain(), capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.slow
def test_the_wheel_with_only_its_declared_packages(wheel: Path, tmp_path: Path) -> None:
    python = environment(
        tmp_path / "venv", {Requirement(text).name for text in ABOUT["dependencies"]}
    )
    pip("--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel))
    commands_in(python, tmp_path)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_a_real_installation_into_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    """Needs a package index; prints the time that it took, and the size."""
    begin = time.monotonic()
    python = environment(tmp_path / "venv", set())
    pip("--python", str(python), "install", "--quiet", str(wheel))
    took = time.monotonic() - begin
    files = [path for path in (tmp_path / "venv").rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files if not path.is_symlink())
    print(f"installed in {took:.0f} s, {size / 1e9:.1f} GB")
    commands_in(python, tmp_path)
