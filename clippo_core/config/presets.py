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
    EvaluateConfig,
    FinetuneConfig,
    GateConfig,
    GlueConfig,
    ImagenetConfig,
    ModelConfig,
    OptimConfig,
    RenderConfig,
    RetrievalConfig,
    RunConfig,
    SourceConfig,
    TrainConfig,
    VqaConfig,
    Xm3600Config,
    require,
)

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
NUMBERS_FOLDER = "numbers"
"""Folder, under a run's root, of the demo's files."""
TINY = ModelConfig(width=128, depth=3, num_heads=4, mlp_dim=512, embed_dim=96)


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
    """What the weekly launch plan trains: B/16 with a quarter of C4 pairs on the newest
    image/alt-text tars.
    """
    return paper_b16(0.25, data=data, root=root, name="weekly")


def demo(root: str = "runs") -> RunConfig:
    """The embedded default, handwritten numbers: the paper's recipe in small, about two minutes of
    training on two idle cores.
    """
    data = f"{root}/{NUMBERS_FOLDER}"
    finetune = FinetuneConfig(batch_size=48, epochs=4, learning_rates=(5e-4,), warmup_share=0.1)
    return RunConfig(
        name="demo",
        root=root,
        is_demo=True,
        render=RenderConfig(image_px=64),
        data=DataConfig(
            sources=(
                SourceConfig(
                    "karpathy",
                    f"{data}/pretrain/dataset.json",
                    images=f"{data}/pretrain/images",
                    split="train",
                    name="numbers",
                ),
                SourceConfig("tsv", f"{data}/pretrain/sentences.tsv", name="number_names"),
            ),
            text_pair_share=0.25,
        ),
        model=TINY,
        optim=OptimConfig(warmup_steps=60, timescale_steps=110, cooldown_steps=110),
        train=TrainConfig(
            steps=730,
            batch_pairs=92,
            precision="float32",
            memory="plain",
            save_every_steps=200,
            keep_checkpoints=2,
            loader_workers=0,
        ),
        evaluate=EvaluateConfig(
            imagenet=ImagenetConfig(
                images=f"{data}/imagenet/val",
                train_images=f"{data}/imagenet/train",
                class_names=f"{data}/imagenet/class_names.json",
                dataset="digits",
                templates="name",
                n_classes=10,
                expect_images=360,
            ),
            retrieval=(
                RetrievalConfig(
                    f"{data}/retrieval/dataset.json",
                    f"{data}/retrieval/images",
                    dataset="numbers",
                    expect_images=100,
                ),
            ),
            vqa=VqaConfig(
                train_questions=f"{data}/vqa/train_questions.json",
                train_annotations=f"{data}/vqa/train_annotations.json",
                train_images=f"{data}/vqa/images",
                questions=f"{data}/vqa/val_questions.json",
                annotations=f"{data}/vqa/val_annotations.json",
                images=f"{data}/vqa/images",
                dataset="numbers_vqa",
                expect_questions=800,
                # With the head at the tower's rate, or after 4 epochs, it answers by the question
                # alone (DECISIONS.md).
                finetune=FinetuneConfig(
                    batch_size=48, epochs=10, learning_rates=(5e-4,), head_lr_multiplier=10.0
                ),
            ),
            glue=GlueConfig(f"{data}/glue", dataset="numbers_glue", finetune=finetune),
            xm3600=Xm3600Config(
                f"{data}/xm3600/captions.jsonl",
                f"{data}/xm3600/images",
                dataset="numbers_xm",
                languages=("en", "de", "ja", "ar"),
                expect_images=100,
            ),
        ),
        # A hundred pictures cannot show that less is lost, and short trainings differ by seed.
        gate=GateConfig(margin=10.0, seed_noise=3.0),
    )


def slices(
    data: str, root: str = "runs", *, image_px: int = 112, steps: int = 600, batch_pairs: int = 96
) -> RunConfig:
    """A small tower on real photos, real sentences and real benchmark files, for a machine without
    a GPU.

    `data` holds the folders flickr8k, flickr30k_multi30k, c4_like, multi30k_text, imagenet_sample,
    vqav2, glue and emoji36, each in its benchmark's own format. Photos of the train splits with
    their captions; a quarter of every batch are sentence pairs.
    """
    flickr30k = f"{data}/flickr30k_multi30k"
    vqav2 = f"{data}/vqav2"
    finetune = FinetuneConfig(batch_size=32, epochs=3, learning_rates=(1e-4,))
    return RunConfig(
        name="slices",
        root=root,
        render=RenderConfig(image_px=image_px),
        data=DataConfig(
            sources=(
                SourceConfig(
                    "karpathy",
                    f"{data}/flickr8k/dataset_flickr8k.json",
                    f"{data}/flickr8k/Flicker8k_Dataset",
                    "train",
                    name="flickr8k",
                ),
                SourceConfig(
                    "karpathy",
                    f"{flickr30k}/dataset_flickr30k.json",
                    f"{flickr30k}/flickr30k-images",
                    "train",
                    name="flickr30k",
                ),
                SourceConfig("c4", f"{data}/c4_like/*.json.gz", name="c4"),
                SourceConfig(
                    "moses",
                    f"{data}/multi30k_text/train.en.gz",
                    second_path=f"{data}/multi30k_text/train.de.gz",
                    languages=("en", "de"),
                    name="multi30k",
                ),
            ),
            text_pair_share=0.25,
        ),
        model=ModelConfig(width=128, depth=4, num_heads=4, mlp_dim=512, embed_dim=128),
        optim=OptimConfig(
            warmup_steps=steps // 10, timescale_steps=steps // 7, cooldown_steps=steps // 7
        ),
        train=TrainConfig(
            steps=steps,
            batch_pairs=batch_pairs,
            precision="float32",
            memory="plain",
            save_every_steps=200,
            keep_checkpoints=2,
            loader_workers=0,
        ),
        evaluate=EvaluateConfig(
            imagenet=ImagenetConfig(
                f"{data}/imagenet_sample/val",
                f"{data}/imagenet_sample/en_classnames_imagenet1k.json",
            ),
            retrieval=(
                RetrievalConfig(
                    f"{flickr30k}/dataset_flickr30k.json",
                    f"{flickr30k}/flickr30k-images",
                    dataset="flickr30k",
                    expect_images=1000,
                ),
            ),
            vqa=VqaConfig(
                train_questions=f"{vqav2}/v2_OpenEnded_mscoco_train2014_questions.json",
                train_annotations=f"{vqav2}/v2_mscoco_train2014_annotations.json",
                train_images=f"{vqav2}/train2014",
                questions=f"{vqav2}/v2_OpenEnded_mscoco_train2014_questions.json",
                annotations=f"{vqav2}/v2_mscoco_train2014_annotations.json",
                images=f"{vqav2}/train2014",
                vocabulary_annotations=(f"{vqav2}/textonly/v2_mscoco_train2014_annotations.json",),
                finetune=FinetuneConfig(
                    batch_size=16, epochs=10, learning_rates=(1e-4,), head_lr_multiplier=10.0
                ),
            ),
            glue=GlueConfig(f"{data}/glue", finetune=finetune),
            xm3600=Xm3600Config(
                f"{data}/emoji36/captions.jsonl", f"{data}/emoji36/images", dataset="emoji36"
            ),
        ),
    )


def by_name() -> dict[str, Callable[..., RunConfig]]:
    """Every preset by its name, for the command line and the tests."""
    functions = (
        demo,
        slices,
        weekly,
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


def benchmarks(data: str) -> EvaluateConfig:
    """The five evaluations on the full benchmarks, laid out under `data` as the README says."""
    coco, flickr30k, vqa = f"{data}/coco", f"{data}/flickr30k", f"{data}/vqav2"
    return EvaluateConfig(
        imagenet=ImagenetConfig(
            f"{data}/imagenet/val",
            f"{data}/imagenet/class_names.json",
            train_images=f"{data}/imagenet/train",
        ),
        retrieval=(
            RetrievalConfig(f"{coco}/dataset_coco.json", f"{coco}/images"),
            RetrievalConfig(
                f"{flickr30k}/dataset_flickr30k.json",
                f"{flickr30k}/images",
                dataset="flickr30k",
                expect_images=1000,
            ),
        ),
        vqa=VqaConfig(
            train_questions=f"{vqa}/v2_OpenEnded_mscoco_train2014_questions.json",
            train_annotations=f"{vqa}/v2_mscoco_train2014_annotations.json",
            train_images=f"{vqa}/train2014",
            questions=f"{vqa}/v2_OpenEnded_mscoco_val2014_questions.json",
            annotations=f"{vqa}/v2_mscoco_val2014_annotations.json",
            images=f"{vqa}/val2014",
            # The usual 3,129 answers come from both.
            vocabulary_annotations=(f"{vqa}/v2_mscoco_val2014_annotations.json",),
        ),
        glue=GlueConfig(f"{data}/glue"),
        xm3600=Xm3600Config(f"{data}/xm3600/captions.jsonl", f"{data}/xm3600/images"),
    )


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
