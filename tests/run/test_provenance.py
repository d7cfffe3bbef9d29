"""What moves the digest of a stage's code, and what does not, each tried on a copy of the tree."""

from __future__ import annotations

import itertools
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import PROJECT

from clippo_core.evaluate.registry import EVALUATIONS as REGISTRY
from clippo_core.run.planning import PRETRAIN, RENDER, VALIDATE
from clippo_core.run.provenance import (
    COMPUTING,
    LOCK,
    code_digest,
    program_digest,
    reached_modules,
)

Edit = Callable[[str], str]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of all that a digest could read."""
    for folder in ("clippo_core", "tasks", "workflows"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PROJECT / folder, tmp_path / folder, ignore=ignored)
    for name in (LOCK, "LICENSE", "README.md"):
        shutil.copy(PROJECT / name, tmp_path / name)
    return tmp_path


STAGE_CODE = {
    "validate": VALIDATE,
    "render": RENDER,
    "pretrain": PRETRAIN,
    **{name: (one.module,) for name, one in REGISTRY.items()},
}
"""The modules behind each stage."""


def moved(project: Path) -> set[str]:
    """The stages whose code differs between this tree and `project`."""
    return {
        stage
        for stage, modules in STAGE_CODE.items()
        if code_digest(*modules) != code_digest(*modules, project=project)
    }


def edit(path: Path, change: Edit) -> None:
    """Change a text file, and make sure that it did change."""
    before = path.read_text(encoding="utf-8")
    after = change(before)
    assert after != before, path
    path.write_text(after, encoding="utf-8")


def replaced(pattern: str, text: str) -> Edit:
    """The edit that puts `text` in the place of the first match of `pattern`."""
    return lambda content: re.sub(pattern, text, content, count=1, flags=re.M | re.S)


NOTHING: dict[str, tuple[str, Edit]] = {
    "a colour of the pages": ("clippo_core/report/style.py", replaced("#[0-9a-f]{6}", "#123456")),
    "a colour of the live page": (
        "clippo_core/report/live.py",
        lambda text: text + "\nRED = '#f00'\n",
    ),
    "a linter's pin": (
        LOCK,
        lambda text: re.sub("^ruff==.*\n", "", text, flags=re.M) + "ruff==9.9\n",
    ),
    "a cloud library's pin": (LOCK, replaced("^boto3==.*?$", "boto3==9.9")),
    "a comment in the lock": (LOCK, replaced("^(torch==.*?)$", r"\1  # bounded here")),
    "a comment": ("clippo_core/losses.py", lambda text: "# the loss\n" + text),
    "a comment and blank lines": ("clippo_core/errors.py", lambda text: text + "\n\n# the end\n"),
    "a module's docstring": ("clippo_core/losses.py", replaced('""".*?"""', '"""The loss."""')),
    "a field's docstring": (
        "clippo_core/config/train.py",
        replaced('"""Optimizer steps."""', '"""Steps of the optimizer."""'),
    ),
    "a space in the published numbers": (
        "clippo_core/assets/published.json",
        lambda text: text + " ",
    ),
    "a licence": ("clippo_core/assets/OFL-1.1.txt", lambda text: text + "\n"),
    "the project's licence": ("LICENSE", lambda text: text + "\n"),
    "the cluster's shape": ("tasks/settings.py", lambda text: text + "\nSPARE = 1\n"),
    "a deck": ("clippo_core/report/decks.py", lambda text: text + "\nSPARE = 1\n"),
    "a check of a config": (
        "clippo_core/config/model.py",
        replaced('"clippo" or not self.skip', '"image_only" or not self.skip'),
    ),
    "a range": ("clippo_core/config/hints.py", lambda text: text + "\nSPARE = 1\n"),
    "a preset": ("clippo_core/config/presets.py", lambda text: text + "\nSPARE = 1\n"),
}


@pytest.mark.parametrize("what", NOTHING)
def test_what_surrounds_a_result_moves_no_stage(project: Path, what: str) -> None:
    path, change = NOTHING[what]
    edit(project / path, change)
    assert moved(project) == set()


EVALUATIONS = set(REGISTRY)


def test_a_line_of_the_loss_moves_training_and_nothing_before_it(project: Path) -> None:
    edit(project / "clippo_core/losses.py", lambda text: text + "\nSPARE = 1\n")
    found = moved(project)
    assert "pretrain" in found and not found & {"validate", "render"}


@pytest.mark.parametrize(
    ("path", "change", "stages"),
    [
        (LOCK, replaced("^torch==.*?$", "torch==9.9.9"), set(STAGE_CODE)),
        (LOCK, replaced("^numpy==.*?$", "numpy==9.9.9"), set(STAGE_CODE)),
        (
            "clippo_core/data/order.py",
            lambda text: text + "\nSPARE = 1\n",
            {"pretrain", "validate"},  # which thins for the order's windows
        ),
        ("clippo_core/evaluate/vqa/protocol.py", lambda text: text + "\nSPARE = 1\n", {"vqa"}),
        (
            "clippo_core/data/validate/expectations.py",
            lambda text: text + "\nSPARE = 1\n",
            {"validate"},
        ),
    ],
    ids=["torch", "numpy", "order", "vqa", "expectations"],
)
def test_what_computes_moves_its_stages(
    project: Path, path: str, change: Edit, stages: set[str]
) -> None:
    edit(project / path, change)
    assert moved(project) == stages


def test_another_font_moves_every_stage(project: Path) -> None:
    font = project / "clippo_core/assets/unifont-15.0.01.xz"
    font.write_bytes(font.read_bytes() + b"\0")
    assert moved(project) == set(STAGE_CODE)


def field(config: str, line: str) -> Edit:
    """The edit that adds a field at the head of the class `config`."""
    return replaced(rf'(^class {config}\(.*?"""\n\n)', rf"\g<1>    {line}\n")


@pytest.mark.parametrize(
    ("path", "config", "stages"),
    [
        # Training and evaluations decode a checkpoint's model, where defaults fill what it lacks.
        ("model", "ModelConfig", {"pretrain", *EVALUATIONS}),
        ("train", "TrainConfig", set()),
        # Fine-tuning makes one.
        ("train", "OptimConfig", {"glue", "vqa"}),
        ("evaluate", "GlueConfig", set()),
        ("data", "RenderConfig", set(STAGE_CODE)),
    ],
)
def test_a_new_field_moves_the_code_that_makes_such_a_config(
    project: Path, path: str, config: str, stages: set[str]
) -> None:
    hinted = replaced("(import [^\n]*)Count", r"\1NewHint, Count")
    file = project / f"clippo_core/config/{path}.py"
    if path == "model":
        edit(file, hinted)
    edit(file, field(config, "added: Count = 7"))
    assert moved(project) == stages


def test_what_a_config_computes_counts(project: Path) -> None:
    edit(project / "clippo_core/config/model.py", replaced("PATCH_PX = 16", "PATCH_PX = 32"))
    assert moved(project) == set(STAGE_CODE)


def test_a_changed_word_inside_a_function_counts(project: Path) -> None:
    edit(project / "clippo_core/data/order.py", replaced(r"2 \* self\.seed", "3 * self.seed"))
    assert moved(project) == {"pretrain", "validate"}, "validation thins for the order's windows"


def test_training_reaches_no_page() -> None:
    for stage, modules in STAGE_CODE.items():
        reached = set().union(*map(reached_modules, modules))
        assert not [name for name in reached if name.startswith("clippo_core.report")], stage


def test_every_computing_library_is_pinned() -> None:
    pins = (PROJECT / LOCK).read_text(encoding="utf-8")
    assert {name for name in COMPUTING if re.search(f"^{name}==", pins, re.M)} == COMPUTING


def test_a_digest_is_quick(project: Path) -> None:
    started = time.process_time()
    code_digest(*itertools.chain(*STAGE_CODE.values()), project=project)
    assert time.process_time() - started < 10


def test_two_programs_are_the_same_to_the_last_comment(project: Path) -> None:
    assert program_digest(project) == program_digest()
    (project / "clippo_core" / "__pycache__").mkdir(exist_ok=True)
    (project / "clippo_core" / "__pycache__" / "x.pyc").touch()
    (project / "README.md").write_text("another one")
    program_digest.cache_clear()
    assert program_digest(project) == program_digest()
    edit(project / "tasks" / "settings.py", lambda text: text + "# a comment\n")
    program_digest.cache_clear()
    assert program_digest(project) != program_digest()
