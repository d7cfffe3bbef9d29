"""Complete runs by name: the demo, the paper's runs, its ablations and baselines, and small runs on
real slices.

    presets.paper_b16(c4_share=0.25)          a variant is another argument, or dataclasses.replace

Steps, batch, optimizer and towers are those of clippo's released configuration and README
(big_vision configs/proj/clippo). The paper's WebLI is private, so the paper's presets read
image/alt-text tars (YFCC-100M or any other set) from `data`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from clippo_core.config import (
    DataConfig,
    GateConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    SourceConfig,
    TrainConfig,
    require,
)
from clippo_core.config.benchmarks import benchmarks as benchmarks
from clippo_core.config.model import PROMOTED
from clippo_core.config.small import demo as demo
from clippo_core.config.small import photos as photos
from clippo_core.config.small import slices as slices

PAPER_STEPS: dict[float, int] = {
    0.0: 250_000,
    0.25: 333_000,
    0.5: 500_000,
    0.75: 500_000,
    1.0: 250_000,
}
"""Steps by share of C4 pairs: image/alt-text pairs seen stay constant up to 50 % (big_vision clippo
README, table)."""

B16 = ModelConfig()
L16 = ModelConfig(width=1024, depth=24, num_heads=16, mlp_dim=4096)


def paper_b16(
    c4_share: float = 0.0,
    *,
    data: str = "s3://clippo/data",
    root: str = "s3://clippo/runs",
    name: str = "",
) -> RunConfig:
    """CLIPPO B/16 at 10,240 pairs. `c4_share` of every batch are consecutive C4 sentences: 0, 0.25,
    0.5, 0.75 or 1.
    """
    return _paper(B16, c4_share, data, root, name or f"clippo-b16-c4-{round(100 * c4_share)}")


def paper_l16(
    c4_share: float = 0.0,
    *,
    data: str = "s3://clippo/data",
    root: str = "s3://clippo/runs",
    name: str = "",
) -> RunConfig:
    """CLIPPO L/16, otherwise as `paper_b16`."""
    return _paper(L16, c4_share, data, root, name or f"clippo-l16-c4-{round(100 * c4_share)}")


def c4_only(*, data: str = "s3://clippo/data", root: str = "s3://clippo/runs") -> RunConfig:
    """B/16 trained on consecutive sentences alone: a language model that never saw a photo."""
    return paper_b16(1.0, data=data, root=root, name="clippo-b16-c4-only")


def parallel_only(*, data: str = "s3://clippo/data", root: str = "s3://clippo/runs") -> RunConfig:
    """B/16 trained on parallel sentences alone (WMT19 in the paper): four-column TSV files under
    `data`/wmt19.
    """
    run = paper_b16(1.0, data=data, root=root, name="clippo-b16-wmt19")
    source = SourceConfig("tsv", f"{data}/wmt19/*.tsv", name="wmt19")
    return dataclasses.replace(run, data=dataclasses.replace(run.data, sources=(source,)))


def back_translated(*, data: str = "s3://clippo/data", root: str = "s3://clippo/runs") -> RunConfig:
    """B/16 trained on C4 sentences and their back-translations, two columns of a TSV; the
    translation itself is data.
    """
    run = paper_b16(1.0, data=data, root=root, name="clippo-b16-back-translated")
    source = SourceConfig("tsv", f"{data}/c4-back-translated/*.tsv", name="back_translated")
    return dataclasses.replace(run, data=dataclasses.replace(run.data, sources=(source,)))


def i21k_init(
    c4_share: float = 0.0, *, data: str = "s3://clippo/data", root: str = "s3://clippo/runs"
) -> RunConfig:
    """B/16 from the ImageNet-21k weights howto-i21k-B/16 (a big_vision .npz under `data`): all but
    head, MAP head and class token.
    """
    run = paper_b16(
        c4_share, data=data, root=root, name=f"clippo-b16-i21k-c4-{round(100 * c4_share)}"
    )
    return dataclasses.replace(
        run, model=dataclasses.replace(B16, initial_weights=f"{data}/howto-i21k-B16.npz")
    )


def one_tower_clip(
    large: bool = False, *, data: str = "s3://clippo/data", root: str = "s3://clippo/runs"
) -> RunConfig:
    """1T-CLIP: one trunk, a token embedding instead of rendered text (SentencePiece, 32k, under
    `data`).
    """
    model = dataclasses.replace(
        L16 if large else B16, kind="one_tower_clip", tokenizer=f"{data}/cc_en.32000.model"
    )
    return _paper(model, 0.0, data, root, f"one-tower-clip-{'l16' if large else 'b16'}")


def two_tower_clip(*, data: str = "s3://clippo/data", root: str = "s3://clippo/runs") -> RunConfig:
    """CLIP*: a text tower of its own, with the same tokenizer, loss, optimizer and schedule."""
    model = dataclasses.replace(B16, kind="two_tower_clip", tokenizer=f"{data}/cc_en.32000.model")
    return _paper(model, 0.0, data, root, "clip-star-b16")


def separate_inputs(
    patch_embeddings: bool = True,
    heads: bool = True,
    *,
    data: str = "s3://clippo/data",
    root: str = "s3://clippo/runs",
) -> RunConfig:
    """The paper's ablation: patch embeddings and/or heads of their own for photos and rendered
    text, 100,000 steps.
    """
    model = dataclasses.replace(
        B16, separate_patch_embeddings=patch_embeddings, separate_heads=heads
    )
    run = _paper(
        model,
        0.0,
        data,
        root,
        f"clippo-b16-separate-{'patches' * patch_embeddings}{'heads' * heads}",
    )
    return dataclasses.replace(run, train=dataclasses.replace(run.train, steps=100_000))


def weekly(*, data: str = "s3://clippo/data", root: str = "s3://clippo/runs") -> RunConfig:
    """What the weekly launch plan trains: the promoted model on the newest image/alt-text tars and
    a quarter of C4 pairs, with a tenth of the steps and a third of the learning rate.
    """
    run = weekly_from_scratch(data=data, root=root)
    return dataclasses.replace(
        run,
        model=dataclasses.replace(run.model, initial_weights=PROMOTED),
        optim=OptimConfig(
            lr=3e-4, warmup_steps=1_000, timescale_steps=10_000, cooldown_steps=5_000
        ),
        train=dataclasses.replace(run.train, steps=run.train.steps // 10),
    )


def weekly_from_scratch(
    *, data: str = "s3://clippo/data", root: str = "s3://clippo/runs"
) -> RunConfig:
    """The first model of the weekly series, or a new beginning: B/16 with a quarter of C4 pairs."""
    return paper_b16(0.25, data=data, root=root, name="weekly")


def by_name() -> dict[str, Callable[..., RunConfig]]:
    """Every preset by its name, for the command line and the tests."""
    functions = (
        demo,
        slices,
        photos,
        weekly,
        weekly_from_scratch,
        paper_b16,
        paper_l16,
        c4_only,
        parallel_only,
        back_translated,
        i21k_init,
        one_tower_clip,
        two_tower_clip,
        separate_inputs,
    )
    return {function.__name__: function for function in functions}


def _paper(model: ModelConfig, c4_share: float, data: str, root: str, name: str) -> RunConfig:
    require(
        c4_share in PAPER_STEPS,
        f"c4_share {c4_share} is none of the paper's {', '.join(map(str, PAPER_STEPS))}.",
    )
    photos = (
        (SourceConfig("webdataset", f"{data}/pairs/*.tar", name="alt_text"),)
        if c4_share < 1
        else ()
    )
    texts = (
        (SourceConfig("c4", f"{data}/c4/en/c4-train.*.json.gz", name="c4"),) if c4_share > 0 else ()
    )
    return RunConfig(
        name=name,
        root=root,
        data=DataConfig(sources=photos + texts, text_pair_share=c4_share),
        model=model,
        train=TrainConfig(steps=PAPER_STEPS[c4_share], compile=True, loader_workers=8),
        evaluate=benchmarks(data),
        # A tower that saw no photo beats chance in language alone.
        gate=GateConfig(floors=("glue/average",) if c4_share == 1 else ()),
    )
