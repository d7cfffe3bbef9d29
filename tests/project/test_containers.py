"""Container recipes: lint, pins, user, secrets, and that the copied files are a whole program with
the very same code digest.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from clippo_core.run.provenance import PROJECT, code_digest

RECIPES = sorted((PROJECT / "containers").glob("*.Dockerfile"))
HADOLINT = Path(sys.executable).with_name("hadolint")


def instructions(path: Path) -> list[tuple[str, str]]:
    """(word, arguments) of a Dockerfile, comments dropped, continued lines joined."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [
        (word.upper(), rest.strip())
        for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())
    ]


def final_stage(path: Path) -> list[tuple[str, str]]:
    found = instructions(path)
    return found[max(place for place, (word, _) in enumerate(found) if word == "FROM") :]


def copied(path: Path) -> list[tuple[str, str]]:
    """(source, target) of what the final stage copies out of the project into the program's
    folder.
    """
    arguments = [
        shlex.split(rest)
        for word, rest in final_stage(path)
        if word == "COPY" and "--from=" not in rest
    ]
    pairs = [[word for word in words if not word.startswith("--")] for words in arguments]
    return [
        (source, words[-1])
        for words in pairs
        for source in words[:-1]
        if not words[-1].startswith("/tmp/")
    ]


def test_there_is_an_image_for_each_name_that_tasks_use():
    assert [path.name for path in RECIPES] == ["cpu.Dockerfile", "train.Dockerfile"]
    images = yaml.safe_load((PROJECT / "flyte.yaml").read_text())["images"]
    used = set(
        re.findall(r"\{\{\.image\.(\w+)\.fqn\}\}", (PROJECT / "tasks" / "settings.py").read_text())
    )
    assert used == set(images) == {path.name.split(".")[0] for path in RECIPES}
    assert not any(":" in name for name in images.values())  # the Makefile tags with the commit


@pytest.mark.skipif(not HADOLINT.exists(), reason="hadolint is not installed")
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_hadolint_finds_nothing(path):
    found = subprocess.run(
        [HADOLINT, "--format", "json", path], capture_output=True, text=True, timeout=60
    )
    assert json.loads(found.stdout) == [], found.stdout


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_bases_and_packages_are_pinned(path):
    for word, rest in instructions(path):
        if word == "FROM":
            image = rest.split()[0]
            assert re.search(r"(:\d+\.\d+\.\d+[\w.-]*|@sha256:[0-9a-f]{64})$", image), image
        if word == "RUN" and "pip install" in rest:
            for call in re.findall(r"pip install(.*?)(?:&&|$)", rest):
                named = [part for part in shlex.split(call) if not part.startswith("-")]
                values = [
                    after
                    for option, after in zip(shlex.split(call), shlex.split(call)[1:], strict=False)
                    if option.startswith("--")
                ]
                assert "--requirement" in call and set(named) <= set(values), (
                    f"a package outside the lock: {call}"
                )
                # /tmp/torch.lock holds lines of the first; tests and linters are in neither.
                files = {value for value in named if value.startswith("/tmp/")}
                assert files and files <= {"/tmp/requirements.lock", "/tmp/torch.lock"}
        assert word != "ADD" and "curl" not in rest and "wget" not in rest
    assert any("requirements.lock" in rest for word, rest in instructions(path) if word == "RUN")
    assert "requirements-dev" not in path.read_text()
    assert "digest" in path.read_text(), "the recipe says that its tags are no digests"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_runs_as_a_numbered_user_who_is_not_root(path):
    stage = final_stage(path)
    users = [rest for word, rest in stage if word == "USER"]
    assert len(users) == 1 and re.fullmatch(r"[1-9]\d+(:[1-9]\d+)?", users[0])
    number = users[0].split(":")[0]
    assert any(f"useradd --uid {number}" in rest for word, rest in stage if word == "RUN")
    last = max(place for place, (word, _) in enumerate(stage) if word == "COPY")
    assert last < stage.index(("USER", users[0]))
    for word, rest in stage:
        assert (
            word != "COPY" or "--from=" in rest or "/tmp/" in rest or f"--chown={number}:" in rest
        )


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_caches_can_be_written_and_flyte_finds_its_command(path):
    environment = " ".join(rest for word, rest in final_stage(path) if word == "ENV")
    assert "PATH=/opt/venv/bin:$PATH" in environment and "PYTHONPATH=/root" in environment
    for name in ("XDG_CACHE_HOME", "MPLCONFIGDIR", "HF_HOME"):
        assert f"{name}=/tmp/" in environment
    assert ("WORKDIR", "/root") in final_stage(path)
    assert not [word for word, _ in final_stage(path) if word == "ENTRYPOINT"], (
        "Flyte's arguments are the whole command"
    )
    assert any("pyflyte-execute" in rest for word, rest in final_stage(path) if word == "RUN")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_no_secret_and_no_compiled_operator(path):
    for word, rest in instructions(path):
        if word in ("ENV", "ARG"):
            assert not re.search(
                r"(?i)(secret|token|password|passwd|credential|api_?key|access_?key)", rest
            ), rest
        assert "AKIA" not in rest and "-----BEGIN" not in rest and "--mount=type=secret" not in rest
    everything = " ".join(rest for _, rest in instructions(path))
    assert "DS_BUILD_OPS=0" in everything and not re.search(r"DS_BUILD_\w+=1", everything)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_what_is_copied_is_the_whole_program_with_the_same_digest(path, tmp_path):
    for source, target in copied(path):
        assert (PROJECT / source).exists(), source
        if (PROJECT / source).is_dir():
            shutil.copytree(
                PROJECT / source, tmp_path / target, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(PROJECT / source, tmp_path / target)
    modules = [
        "tasks.report",
        "clippo_core.report.page",
        "clippo_core.data.shards",
        "clippo_core.evaluate.glue.protocol",
    ]
    program = (
        f"from clippo_core.run.provenance import code_digest\nfor name in {modules}:"
        " print(code_digest(name))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [code_digest(name) for name in modules]


def test_build_context_holds_what_is_copied_and_little_else():
    ignored = [
        line
        for line in (PROJECT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert ignored[0] == "*"
    let_through = {line[1:] for line in ignored if line.startswith("!")}
    assert {source for path in RECIPES for source, _ in copied(path)} <= let_through
    assert (
        not {".git", ".venv", "runs", "tests", "requirements-dev.lock", "."} & let_through
        and "**/__pycache__" in ignored
    )
