"""The benchmarks as their authors publish them, laid out in folders as the README says."""

from __future__ import annotations

from clippo_core.config.evaluate import (
    EvaluateConfig,
    GlueConfig,
    ImagenetConfig,
    RetrievalConfig,
    VqaConfig,
    Xm3600Config,
)


def benchmarks(data: str) -> EvaluateConfig:
    """The five evaluations on the full benchmarks, laid out under `data` as the README says."""
    coco = f"{data}/coco"
    return EvaluateConfig(
        imagenet=ImagenetConfig(
            f"{data}/imagenet/val",
            f"{data}/imagenet/class_names.json",
            train_images=f"{data}/imagenet/train",
        ),
        retrieval=(
            RetrievalConfig(f"{coco}/dataset_coco.json", f"{coco}/images"),
            flickr30k(f"{data}/flickr30k", "images"),
        ),
        vqa=vqav2(f"{data}/vqav2", "val2014"),
        glue=GlueConfig(f"{data}/glue"),
        xm3600=Xm3600Config(f"{data}/xm3600/captions.jsonl", f"{data}/xm3600/images"),
    )


def flickr30k(folder: str, images: str) -> RetrievalConfig:
    """Flickr30k in `folder`: Karpathy's test split of 1,000 photos, from its folder `images`."""
    return RetrievalConfig(
        f"{folder}/dataset_flickr30k.json",
        f"{folder}/{images}",
        dataset="flickr30k",
        expect_images=1000,
    )


def vqav2(folder: str, scored: str) -> VqaConfig:
    """VQA v2 in `folder`: fine-tuned on train2014, scored on `scored` (`val2014`, `train2014`); the
    usual 3,129 answers come from the annotations of both."""
    questions, annotations = f"{folder}/v2_OpenEnded_mscoco_", f"{folder}/v2_mscoco_"
    return VqaConfig(
        train_questions=f"{questions}train2014_questions.json",
        train_annotations=f"{annotations}train2014_annotations.json",
        train_images=f"{folder}/train2014",
        questions=f"{questions}{scored}_questions.json",
        annotations=f"{annotations}{scored}_annotations.json",
        images=f"{folder}/{scored}",
        vocabulary_annotations=(f"{annotations}{scored}_annotations.json",),
    )
