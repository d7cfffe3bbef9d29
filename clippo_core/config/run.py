"""Config of a whole run: the workflow's one typed input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from clippo_core.config.check import Checked, require
from clippo_core.config.data import DataConfig, RenderConfig
from clippo_core.config.evaluate import EvaluateConfig
from clippo_core.config.gate import GateConfig
from clippo_core.config.hints import Check, Name, Runtime, Whole
from clippo_core.config.model import ModelConfig
from clippo_core.config.train import OptimConfig, TrainConfig


def _is_folder_name(name: str) -> bool:
    return bool(name) and all(c.isascii() and (c.isalnum() or c in "-_.") for c in name)


FolderName = Annotated[
    str, Check(_is_folder_name, "it names a folder: use letters, digits, '-', '_' and '.'")
]
NamedFile = Annotated[
    str,
    Check(lambda t: all(t.partition("=")), "it must be a name, `=` and a SentencePiece file"),
]


@dataclass(frozen=True)
class RunConfig(Checked):
    """Everything about one run: the workflow's one typed input."""

    name: Runtime[FolderName]
    """Name of the run; its folder is `<root>/<name>-<plan digest>`."""
    data: DataConfig
    """Pairs."""
    render: RenderConfig = RenderConfig()
    """Text as pixels."""
    model: ModelConfig = ModelConfig()
    """Tower."""
    optim: OptimConfig = OptimConfig()
    """Optimizer and schedule."""
    train: TrainConfig = TrainConfig()
    """Length, batch, memory, checkpoints."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """Evaluations."""
    root: Runtime[Name] = "runs"
    """Folder, or s3://bucket/prefix, under which every run has its own folder."""
    seed: Whole = 0
    """Seed of initialisation, data order and sampling."""
    is_demo: bool = False
    """Marks every result of this run as the demo's."""
    promote_metric: Runtime[str] = ""
    """The one metric that decides about promotion; empty = the mean of all main metrics, and no
    single one may fall behind."""
    gate: Runtime[GateConfig] = GateConfig()
    """How much worse a new model may be, and how sure the gate has to be."""
    tokenizers: Runtime[tuple[NamedFile, ...]] = ()
    """SentencePiece models, each as `name=file`, whose lengths stand beside CLIPPO's patches in the
    report; nothing else reads them. Paths as they are: `{kickoff}` is not filled in here."""

    def check_together(self) -> None:
        """Steps hold warm-up and cooldown; the tower can start so; augmentation fits the page."""
        warmup, cooldown = self.optim.warmup_steps, self.optim.cooldown_steps
        require(
            self.train.steps >= warmup + cooldown,
            f"train.steps is {self.train.steps}, fewer than warm-up ({warmup}) plus cooldown "
            f"({cooldown}) steps; train longer or shorten them.",
        )
        self.model.check_start()
        self.train.augment.check_fits(self.render, self.model)
