"""Small runs for a machine without a GPU: the demo, and one on slices of real data."""

from __future__ import annotations

import dataclasses

from clippo_core.config.benchmarks import flickr30k, vqav2
from clippo_core.config.data import DataConfig, RenderConfig, SourceConfig
from clippo_core.config.evaluate import (
    EvaluateConfig,
    GlueConfig,
    ImagenetConfig,
    RetrievalConfig,
    VqaConfig,
    Xm3600Config,
)
from clippo_core.config.gate import GateConfig
from clippo_core.config.model import ModelConfig
from clippo_core.config.run import RunConfig
from clippo_core.config.train import FinetuneConfig, OptimConfig, TrainConfig

NUMBERS_FOLDER = "numbers"
"""Folder, under a run's root, of the demo's files."""
TINY = ModelConfig(width=128, depth=3, num_heads=4, mlp_dim=512, embed_dim=96)

SMALL = ModelConfig(width=128, depth=4, num_heads=4, mlp_dim=512, embed_dim=128)


PHOTOS_STEPS = 1500
"""Steps of `photos`."""


def demo(root: str = "runs") -> RunConfig:
    """The embedded default, handwritten numbers: the paper's recipe in small, about two minutes of
    training on two idle cores.
    """
    data = f"{root}/{NUMBERS_FOLDER}"
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
        train=on_a_laptop(steps=730, batch_pairs=92),
        evaluate=_numbers(data),
        # Three seeds differed by 4.5 points beyond their test noise (DECISIONS.md); a margin below
        # 11 would refuse every equal model.
        gate=GateConfig(margin=15.0, seed_noise=4.5),
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
        model=SMALL,
        optim=OptimConfig(
            warmup_steps=steps // 10, timescale_steps=steps // 7, cooldown_steps=steps // 7
        ),
        train=on_a_laptop(steps, batch_pairs),
        evaluate=_real_slices(data),
    )


def photos(
    data: str, root: str = "runs", *, steps: int = PHOTOS_STEPS, batch_pairs: int = 64
) -> RunConfig:
    """CLIPPO that learns to read real captions on one core (docs/reading.md): Flickr8k's and
    Flickr30k's training photos, scored on the test photos of both and on SST-2.

    `data` holds the folders flickr8k, flickr30k_multi30k and glue. What differs from the paper:
    words begin at patch borders, blank rows are left out, two captions of a photo are the sentence
    pairs, a small tower on small pages, a lower learning rate, float32.
    """
    run = slices(data, root, image_px=96, steps=steps, batch_pairs=batch_pairs)
    sources = run.data.sources[:2]
    flickr8k = sources[0]
    tuning = FinetuneConfig(batch_size=32, epochs=12, learning_rates=(1.5e-4,))
    evaluate = EvaluateConfig(
        retrieval=(
            RetrievalConfig(flickr8k.path, flickr8k.images, "flickr8k", expect_images=1000),
            *run.evaluate.retrieval,
        ),
        glue=GlueConfig(f"{data}/glue", tasks=("SST-2",), finetune=tuning),
    )
    return dataclasses.replace(
        run,
        name="photos",
        render=RenderConfig(image_px=96, layout="words"),
        data=dataclasses.replace(run.data, sources=sources + tuple(map(_captions, sources))),
        model=dataclasses.replace(SMALL, skip_blank_rows=True),
        optim=dataclasses.replace(run.optim, lr=3e-4),
        evaluate=evaluate,
    )


def _captions(photos: SourceConfig) -> SourceConfig:
    """The captions of a source of photos, as sentence pairs."""
    return SourceConfig("captions", photos.path, split="train", name=f"{photos.name}-captions")


def _numbers(data: str) -> EvaluateConfig:
    """The demo's five evaluations."""
    finetune = FinetuneConfig(batch_size=48, epochs=4, learning_rates=(5e-4,), warmup_share=0.1)
    return EvaluateConfig(
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
    )


def _real_slices(data: str) -> EvaluateConfig:
    # Scored on held-out photos of the training split, the only ones in the slice.
    vqa = dataclasses.replace(
        vqav2(f"{data}/vqav2", "train2014"),
        vocabulary_annotations=(f"{data}/vqav2/textonly/v2_mscoco_train2014_annotations.json",),
        finetune=FinetuneConfig(
            batch_size=16, epochs=10, learning_rates=(1e-4,), head_lr_multiplier=10.0
        ),
    )
    finetune = FinetuneConfig(batch_size=32, epochs=3, learning_rates=(1e-4,))
    return EvaluateConfig(
        imagenet=ImagenetConfig(
            f"{data}/imagenet_sample/val",
            f"{data}/imagenet_sample/en_classnames_imagenet1k.json",
        ),
        retrieval=(flickr30k(f"{data}/flickr30k_multi30k", "flickr30k-images"),),
        vqa=vqa,
        glue=GlueConfig(f"{data}/glue", finetune=finetune),
        xm3600=Xm3600Config(
            f"{data}/emoji36/captions.jsonl", f"{data}/emoji36/images", dataset="emoji36"
        ),
    )


def on_a_laptop(steps: int, batch_pairs: int) -> TrainConfig:
    """How a small tower trains without a GPU."""
    return TrainConfig(
        steps=steps,
        batch_pairs=batch_pairs,
        precision="float32",
        memory="plain",
        save_every_steps=200,
        keep_checkpoints=2,
        loader_workers=0,
    )
