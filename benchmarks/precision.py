"""How far do an evaluation's figures move when embeddings are computed in bfloat16?

    python benchmarks/precision.py --checkpoint RUN/checkpoints --annotations dataset.json \\
        --images images

Retrieval on one benchmark with the same weights in both, and the least cosine between a picture's
two embeddings. On a CPU, TF32 is float32. The demo's are runs/NAME/checkpoints and
runs/numbers/retrieval.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from measure import report, table

from clippo_core.config import EvaluateConfig, RetrievalConfig
from clippo_core.embedder import Clippo
from clippo_core.evaluate.retrieval import protocol
from clippo_core.run.records import EvaluatePlan, StagePlan


def main() -> None:
    """Print the table, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--annotations", required=True)
    parser.add_argument("--images", required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--out", type=Path)
    o = parser.parse_args()
    setting = RetrievalConfig(o.annotations, o.images, "set", o.split, expect_images=10**6)
    found = {}
    for precision in ("float32", "bfloat16"):
        with tempfile.TemporaryDirectory() as folder:
            evaluate = EvaluateConfig(retrieval=(setting,), precision=precision)
            plan = EvaluatePlan(StagePlan(folder, 0, "0" * 64), evaluate)
            found[precision] = protocol.run(o.checkpoint, plan, progress=False).metrics
    exact, fast = found.values()
    rows = [
        [name.partition("/")[2], metric.value, fast[name].value, metric.n]
        for name, metric in exact.items()
        if metric.value is not None
    ]
    pictures = sorted(Path(o.images).glob("*.[pj]*g"))
    one, other = (Clippo.load(o.checkpoint, precision=p).embed_images(pictures) for p in found)
    least = float((one * other).sum(1).min())
    columns = {"metric": "", "float32": ".2f", "bfloat16": ".2f", "n": ",d"}
    cosine = [["pictures", len(pictures)], ["least cosine", f"{least:.6f}"]]
    tables = [table(columns, rows), table({"": "", "both embeddings": ",d"}, cosine)]
    report("precision", tables, "nothing timed", packages=["torch"], out=o.out)


if __name__ == "__main__":
    main()
