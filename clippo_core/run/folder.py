"""Where everything of a run stands: the only place that says so.

    <base>/stages/<stage>-<digest>.json     where a stage was completed, for later runs
           promoted-<name>.json             the pointer to the promoted model
           promoted-<name>/                 the promoted model as a hub's folder, with its card
           promotions/<name>/NNNN.json      every verdict of the gate, oldest first; never changed
           index.html                       the page of all runs and verdicts
           <name>-summary.txt               the terminal's summary of the newest report
           evaluation-<weights>/            evaluations of a finished checkpoint alone
           prepared/                        what is made of partitions of the sources, named by
                                            what it is made of, for all runs
               generation                   lost with any of it, so that no cache answers for it
               partitions/ facts/ verdicts/ evaluated/ exclusions/
               list-….json, <source>-….tar, .jsonl.zst, .index       shards
           <name>-<digest>/                 the run's folder:
               plan.json                    the folders in which its stages stand, its start
               shards/                      manifest.json: the lists of its shards
               checkpoints/                 step-…/ with manifest.json each, and latest.json
               journal.jsonl                one line per training step
               owner.json                   the process that trains here
               training.html, report.html   pages; analysis.json: what the report measured
               decks/                       of a local run: what the console shows of each task
               results.json                 (evaluations alone) all results in one list
               evaluations/<evaluation>/    result.json written last, predictions.parquet,
                                            examples.json, timings.json
                   benchmark-<dataset>/     the same of one benchmark, part.json for result.json

Only addresses are made here; nothing is read or written.
"""

from __future__ import annotations

import urllib.parse
from dataclasses import dataclass

from clippo_core.storage import join

MANIFEST = "manifest.json"
"""A folder's list of files with sizes and sha256, written last: without it the rest is no whole."""
LATEST = "latest.json"
"""Names the newest checkpoint."""
RESULT, SCORES, EXAMPLES, TIMINGS = (
    "result.json",
    "predictions.parquet",
    "examples.json",
    "timings.json",
)
PART = "part.json"
"""The record of one benchmark of several: no result by itself, so `read_results` passes it over."""


PROMOTIONS, STAGES, OF_A_CHECKPOINT = "promotions", "stages", "evaluation-"
"""How the names of the other things beside the runs begin."""
POINTER = "promoted-"
"""How the name of a pointer begins."""


def promotions(pointer: str) -> str:
    """Folder of the verdicts behind a pointer: beside it."""
    folder, _, file = pointer.rpartition("/")
    name = file.removeprefix(POINTER).removesuffix(".json")
    return join(folder or ".", PROMOTIONS, name)


def run_of(checkpoint: str) -> str:
    """Folder of the run that a step's checkpoint lies in; empty where it lies in none."""
    return checkpoint.rpartition("/checkpoints/")[0]


def promoted_folder(pointer: str) -> str:
    """Folder of the promoted model in the form of a hub's, beside its pointer."""
    return pointer.removesuffix(".json")


@dataclass(frozen=True)
class RunFolder:
    """Addresses in a run's folder (local or s3://). Nothing is read or made."""

    root: str

    @property
    def plan(self) -> str:
        """What the run was planned to use."""
        return join(self.root, "plan.json")

    @property
    def shards(self) -> str:
        """Folder of the prepared shards."""
        return join(self.root, "shards")

    @property
    def checkpoints(self) -> str:
        """Folder of the checkpoints."""
        return join(self.root, "checkpoints")

    @property
    def journal(self) -> str:
        """The journal, one JSON line per step."""
        return join(self.root, "journal.jsonl")

    @property
    def owner(self) -> str:
        """The lease of the process that trains here."""
        return join(self.root, "owner.json")

    @property
    def training_page(self) -> str:
        """The page that shows training while it runs."""
        return join(self.root, "training.html")

    @property
    def report(self) -> str:
        """The report's page."""
        return join(self.root, "report.html")

    @property
    def results(self) -> str:
        """All results of the evaluations of a finished checkpoint, as one list."""
        return join(self.root, "results.json")

    @property
    def decks(self) -> str:
        """Folder of the decks of a local run."""
        return join(self.root, "decks")

    @property
    def insight(self) -> str:
        """What the report measured on model and data, kept for a second report."""
        return join(self.root, "analysis.json")

    def evaluation(self, name: str) -> str:
        """Folder of the evaluation `name`."""
        return join(self.root, "evaluations", name)

    def benchmark(self, name: str, dataset: str) -> str:
        """Folder of one benchmark of the evaluation `name`; any name of a dataset is allowed."""
        return join(self.evaluation(name), f"benchmark-{urllib.parse.quote(dataset, safe='')}")


@dataclass(frozen=True)
class BaseFolder:
    """Addresses beside the runs' folders: `RunConfig.root`."""

    root: str

    def run(self, name: str, digest: str) -> RunFolder:
        """Folder of the run `name` whose stages have this digest."""
        return RunFolder(join(self.root, f"{name}-{digest[:12]}"))

    def stage_note(self, stage: str, digest: str) -> str:
        """Note of the folder in which a stage with this digest was completed last."""
        return join(self.root, STAGES, f"{stage}-{digest[:32]}.json")

    def evaluation_of(self, weights_sha256: str) -> str:
        """Folder of the evaluations of a finished checkpoint that has these weights."""
        return join(self.root, f"{OF_A_CHECKPOINT}{weights_sha256[:12]}")

    @property
    def prepared(self) -> str:
        """Folder of what is made of partitions of the sources."""
        return join(self.root, "prepared")

    def promoted(self, name: str) -> str:
        """Pointer to the promoted model of the runs called `name`."""
        return join(self.root, f"{POINTER}{name}.json")

    @property
    def promotions(self) -> str:
        """Folder of the verdicts of all names."""
        return join(self.root, PROMOTIONS)

    @property
    def index(self) -> str:
        """The page of all runs and verdicts."""
        return join(self.root, "index.html")

    def summary(self, name: str) -> str:
        """The terminal's summary of the newest report of the runs called `name`."""
        return join(self.root, f"{name}-summary.txt")


@dataclass(frozen=True)
class PreparedFolder:
    """Addresses of what is made of partitions. `key`: digest of all that a file follows from."""

    root: str

    @property
    def generation(self) -> str:
        """The present generation of the folder's files."""
        return join(self.root, "generation")

    @property
    def shards(self) -> str:
        """Where tars, indexes and lists lie."""
        return self.root

    @staticmethod
    def part(kind: str, key: str, ending: str = ".json") -> str:
        """Name, relative to the folder, of a file of one kind (partitions, facts, ...)."""
        return f"{kind}/{key[:32]}{ending}"
