"""The table of evaluations: a sixth one touches the files that CONTRIBUTING names and no other."""

from __future__ import annotations

import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT

from clippo_core.evaluate.registry import EVALUATIONS, check_complete

ROOM = '''"""How many characters a text has, as a sixth evaluation."""
from clippo_core.evaluate.harness import evaluate

def run(checkpoint, plan, *, progress=True):
    """A protocol like any other."""
    return evaluate("parity", checkpoint, plan, progress, lambda session: None)
'''
CONFIG = '''

@dataclass(frozen=True)
class ParityConfig(Checked, path="evaluate.parity"):
    """A sixth evaluation."""

    folder: Input[Name]
    """Folder of its texts."""
    dataset: Input[Name] = "parity"
    """Name in metrics and tables."""


@dataclass(frozen=True)
class EvaluateConfig('''
ENTRY = """        Evaluation(
            name="parity",
            config=ParityConfig,
            module="clippo_core.evaluate.parity.protocol",
            reads=lambda config: [Input(config.folder)],
            shows=lambda config: [],
            benchmark="parity",
        ),
    )
}
"""
PROGRAM = """
import datetime, sys
from pathlib import Path
from clippo_core.config import EvaluateConfig, RunConfig, DataConfig, SourceConfig, replace
from clippo_core.config.evaluate import ParityConfig
from clippo_core.run.planning import make_plan
here = Path(sys.argv[1])
(here / "texts").mkdir()
(here / "texts" / "a.txt").write_text("one")
(here / "pairs.txt").write_text("one\\ntwo\\n")
data = DataConfig((SourceConfig("sentences", str(here / "pairs.txt")),), text_pair_share=1.0)
run = replace(RunConfig("six", data, root=str(here / "runs")), train__steps=30_000)
run = replace(run, evaluate=EvaluateConfig(parity=ParityConfig(str(here / "texts"))))
when = datetime.datetime(2026, 11, 22, tzinfo=datetime.UTC)
def roots(plan):
    return {name: one.stage.root for name, one in plan.evaluations.items()}
def digests(plan):
    return {name: one.stage.data_digest for name, one in plan.evaluations.items()}
before = digests(make_plan(run, when))
(here / "texts" / "a.txt").write_text("two")
after = digests(make_plan(run, when))
print(sorted(name for name in after if before[name] != after[name]))
"""


def edit(path: Path, old: str, new: str) -> None:
    """Replace the one place of `old` in a file."""
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, (path, old)
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the core with a sixth evaluation, as CONTRIBUTING describes it."""
    core = tmp_path / "project" / "clippo_core"
    shutil.copytree(PROJECT / "clippo_core", core, ignore=shutil.ignore_patterns("__pycache__"))
    room = core / "evaluate" / "parity"
    room.mkdir()
    (room / "__init__.py").write_text('"""A sixth evaluation."""\n', encoding="utf-8")
    (room / "protocol.py").write_text(ROOM, encoding="utf-8")
    config = core / "config" / "evaluate.py"
    edit(config, "\n\n@dataclass(frozen=True)\nclass EvaluateConfig(", CONFIG)
    edit(
        config,
        '    """Multilingual retrieval."""\n',
        '    """Multilingual retrieval."""\n'
        '    parity: ParityConfig | None = None\n    """Parity."""\n',
    )
    registry = core / "evaluate" / "registry.py"
    edit(registry, "    )\n}\n", ENTRY)
    edit(
        registry,
        "from clippo_core.errors import ConfigError\n",
        "from clippo_core.config.evaluate import ParityConfig\n"
        "from clippo_core.errors import ConfigError\n",
    )
    return core.parent


def run(project: Path, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A program in a process of its own, with the project's copy."""
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(project)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_sixth_evaluation_is_planned_and_its_data_move_it_alone(
    project: Path, tmp_path: Path
) -> None:
    done = run(project, PROGRAM, str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['parity']"


def test_a_forgotten_line_stops_the_first_start(project: Path) -> None:
    edit(project / "clippo_core/evaluate/registry.py", ENTRY, "    )\n}\n")
    done = run(project, "import clippo_core.run.planning")
    assert done.returncode and "give each evaluation its line" in done.stderr


def test_every_place_with_a_line_per_evaluation_has_them_all() -> None:
    import workflows
    from tasks import evaluate, plan

    check_complete(evaluate.Plans._fields, "tasks.evaluate.Plans")
    check_complete([name for name in plan.Plans._fields if name in EVALUATIONS], "tasks.plan")
    from workflows.pipeline import evaluate_all

    inputs = [name.removesuffix("_plan") for name in evaluate_all.python_interface.inputs]
    check_complete(inputs[1:], "workflows.pipeline.evaluate_all")
    for name in EVALUATIONS:
        assert hasattr(workflows, f"evaluate_{name}") and hasattr(evaluate, name)
    assert "check_complete" in inspect.getsource(evaluate)
