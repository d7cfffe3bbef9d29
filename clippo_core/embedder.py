"""`Clippo`: embeddings of texts and images from any checkpoint, in two lines.

    model = Clippo.load("clippo_b16_yfcc100m")
    model.embed_images(["dog.jpg"]) @ model.embed_texts(["a dog", "a cat"]).T        cosines [1, 2]

`load` takes a released name, an .npz, an exported .safetensors, or a run's checkpoint.
Preprocessing is the reference's: images squashed to the tower's size (bilinear, without antialias,
truncated to uint8), texts rendered as the checkpoint was trained.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import PIL.Image
import torch

from clippo_core import models, storage
from clippo_core.config import ModelConfig, RenderConfig, replace
from clippo_core.data.images import decode_image, fewshot_crop, squash
from clippo_core.errors import CheckpointError, ConfigError, NotFoundError, RenderError
from clippo_core.exported import open_exported, write_exported
from clippo_core.models import (
    Tower,
    build_tower,
    load_big_vision,
    load_weights,
    normalise,
    resize_positions,
)
from clippo_core.models.convert import ARRAYS_PER_BLOCK, check_fit
from clippo_core.models.text import TokenEncoder
from clippo_core.progress import counted
from clippo_core.released import RELEASED, fetch_released
from clippo_core.rendering import Renderer, TextEncoder
from clippo_core.run import records
from clippo_core.run.folder import RunFolder
from clippo_core.untrusted.json import field
from clippo_core.untrusted.names import reason, refusal

Preprocess = Literal["squash", "fewshot"]
_TOKENIZER = "tokenizer.model"
_SHA256 = re.compile("[0-9a-f]{64}")
_TOKEN_KINDS = ("one_tower_clip", "two_tower_clip")
_EMBEDDING = "token_embed.weight"
C = TypeVar("C")


class Clippo:
    """A tower, what renders (or tokenizes) its texts, and where they run."""

    def __init__(
        self,
        tower: Tower,
        render: RenderConfig,
        *,
        weights_sha256: str = "",
        device: torch.device | str | None = None,
        precision: Literal["float32", "bfloat16"] = "float32",
        text_encoder: TextEncoder | None = None,
        warn_font: bool = False,
    ) -> None:
        if precision not in ("float32", "bfloat16"):
            raise ConfigError(f"precision is {precision!r}; use 'float32' or 'bfloat16'.")
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.tower = tower.to(self.device).eval()
        self.render = replace(render, image_px=tower.image_px)
        self.renderer = Renderer.from_config(self.render, warn_font=warn_font)
        reads_tokens = tower.config.kind in _TOKEN_KINDS
        if text_encoder is None:
            text_encoder = (
                models.text_encoder(tower.config, self.render) if reads_tokens else self.renderer
            )
        self.text_encoder: TextEncoder = text_encoder
        self.weights_sha256 = weights_sha256 or weights_digest(tower)
        self.precision = precision

    @classmethod
    def load(
        cls,
        source: str | Path,
        device: torch.device | str | None = None,
        *,
        image_px: int = 0,
        fonts: Sequence[str] | None = None,
        strict_font: bool = False,
        precision: Literal["float32", "bfloat16"] = "float32",
    ) -> Clippo:
        """The model of a released name, a big_vision .npz, a single-file .safetensors, or a
        checkpoint or run folder (local or s3://).

        device: default CUDA where there is one. image_px: 0 = the checkpoint's; another one
        resamples the position embeddings. fonts: Unifont .hex files instead of the checkpoint's;
        released weights saw 9.0.06, and an exported file that had some needs them named.
        strict_font: raise where the fonts differ. precision: `bfloat16` is several times faster on
        a GPU; embeddings then have about three digits. Raises NotFoundError, CheckpointError,
        ConfigError, StorageError.
        """
        source = str(source)
        if source in RELEASED:
            tower, options = _from_npz(fetch_released(source))
        elif source.endswith(".npz"):
            tower, options = _from_npz(storage.fetch(source))
        elif source.endswith(".safetensors"):
            tower, options = _from_single_file(storage.fetch(source), source, fonts)
        else:
            tower, options = _from_checkpoint(source)
        if image_px and image_px != tower.image_px:
            resize_positions(tower, image_px)
        render: RenderConfig = options.pop("render")
        is_as_trained = not image_px and (fonts is None or bool(render.fonts))
        if fonts is not None:
            render = replace(render, fonts=tuple(fonts))
        trained_digest = options.pop("render_digest", "")
        model = cls(
            tower,
            replace(render, strict_font=strict_font or render.strict_font),
            device=device,
            precision=precision,
            **options,
        )
        # Empty in older checkpoints of token towers, which did not record it.
        if trained_digest and is_as_trained and model.render_digest != trained_digest:
            why = (
                "drawn or tokenized otherwise than in training (fonts, layout rules or tokenizer"
                " differ)"
            )
            warnings.warn(f"{source}: texts are {why}.", stacklevel=2)
        return model

    @property
    def model(self) -> ModelConfig:
        """The tower's configuration."""
        return self.tower.config

    @property
    def image_px(self) -> int:
        """Height and width of the images that the tower reads, in pixels."""
        return self.tower.image_px

    @property
    def render_digest(self) -> str:
        """sha256 over everything that decides how a text is rendered or tokenized."""
        return self.text_encoder.digest

    def embed_texts(
        self, texts: Sequence[str], *, batch_size: int = 256, progress: bool | None = None
    ) -> np.ndarray:
        """Embeddings of texts, float32 [n, embed_dim], unit rows. Raises RenderError for what is no
        list of str.

        progress: a bar, or lines in the log; None = where there are many batches.
        """
        return self._texts(
            self.tower.embed_encoded_text, self.tower.config.embed_dim, texts, batch_size, progress
        )

    def embed_images(
        self,
        images: Sequence[Any],
        *,
        preprocess: Preprocess = "squash",
        batch_size: int = 256,
        progress: bool | None = None,
    ) -> np.ndarray:
        """Embeddings of images (PIL image, path, s3:// address, or the bytes of a file), float32
        [n, embed_dim], unit rows.

        preprocess: `squash` to the tower's size; `fewshot`: squash larger and cut the middle out.
        Raises ImageError, naming the image.
        """
        return self._images(
            self.tower.embed, self.tower.config.embed_dim, images, preprocess, batch_size, progress
        )

    def pooled_texts(
        self, texts: Sequence[str], *, batch_size: int = 256, progress: bool | None = None
    ) -> np.ndarray:
        """What the tower pools of texts, before its head, float32 [n, width]: features for
        probes.
        """
        return self._texts(
            self.tower.pooled_encoded_text, self.tower.config.width, texts, batch_size, progress
        )

    def pooled_images(
        self,
        images: Sequence[Any],
        *,
        preprocess: Preprocess = "fewshot",
        batch_size: int = 256,
        progress: bool | None = None,
    ) -> np.ndarray:
        """The same of images, float32 [n, width] (big_vision's `img/pre_logits`)."""
        return self._images(
            self.tower.pooled, self.tower.config.width, images, preprocess, batch_size, progress
        )

    def classify(
        self,
        images: Sequence[Any],
        names: Sequence[str],
        templates: Sequence[str] = ("{}",),
        *,
        progress: bool | None = None,
    ) -> np.ndarray:
        """Zero-shot probabilities, float32 [n_images, n_names]: softmax of logit_scale * cosine
        with each class's mean prompt.

        templates: sentences with `{}` for the name, used as they are; their embeddings are averaged
        and made unit length again.
        """
        if isinstance(names, str) or not names:
            raise ConfigError("names must be a list of at least one class name.")
        bad = next((template for template in templates if "{}" not in template), None)
        if bad is not None or not templates:
            raise ConfigError(
                f"template {bad!r} has no {{}} where the class name goes."
                if bad is not None
                else "there is no template."
            )
        prompts = [template.replace("{}", name) for name in names for template in templates]
        classes = (
            self.embed_texts(prompts, progress=progress)
            .reshape(len(names), len(templates), -1)
            .mean(axis=1)
        )
        classes /= np.linalg.norm(classes, axis=1, keepdims=True) + 1e-8
        logits = (
            self.tower.logit_scale.item() * self.embed_images(images, progress=progress) @ classes.T
        )
        logits = np.exp(logits - logits.max(axis=1, keepdims=True))
        return (logits / logits.sum(axis=1, keepdims=True)).astype(np.float32)

    def save(self, path: str | Path) -> None:
        """Write the model as one .safetensors file, weights and everything needed to use them;
        `Clippo.load` reads it, without pickle.
        """
        facts = {
            "model": dataclasses.asdict(self.tower.config),
            "render": dataclasses.asdict(self.render),
            "render_digest": self.render_digest,
            "weights_sha256": self.weights_sha256,
            "warn_font": self.renderer.warn_font,
        }
        tensors = {
            name: value.detach().cpu().contiguous() for name, value in self.tower.named_parameters()
        }
        if isinstance(self.text_encoder, TokenEncoder):
            content = self.text_encoder.processor.serialized_model_proto()
            tensors[_TOKENIZER] = torch.from_numpy(np.frombuffer(content, np.uint8).copy())
        write_exported(str(path), facts, tensors)

    def _texts(
        self, tower: Any, width: int, texts: Sequence[str], batch_size: int, progress: bool | None
    ) -> np.ndarray:
        if isinstance(texts, (str, bytes)):
            raise RenderError(f"texts is one {type(texts).__name__}; pass a list of str.")
        texts = list(texts)
        batches = (
            self.text_encoder(texts[start : start + batch_size])
            for start in range(0, len(texts), batch_size)
        )
        return self._run(tower, width, batches, len(texts), batch_size, "texts", progress)

    def _images(
        self,
        tower: Any,
        width: int,
        images: Sequence[Any],
        preprocess: str,
        batch_size: int,
        progress: bool | None,
    ) -> np.ndarray:
        if isinstance(images, (str, bytes, Path)):
            raise ConfigError(f"images is one {type(images).__name__}; pass a list of images.")
        if preprocess not in ("squash", "fewshot"):
            raise ConfigError(f"preprocess is {preprocess!r}; use 'squash' or 'fewshot'.")
        resize = squash if preprocess == "squash" else fewshot_crop

        def prepare(numbered: tuple[int, Any]) -> np.ndarray:
            position, image = numbered
            name = str(image) if isinstance(image, (str, Path)) else f"image {position}"
            return resize(decode_image(image, name), self.image_px).transpose(2, 0, 1)

        def batches(pool: ThreadPoolExecutor) -> Iterator[np.ndarray]:
            numbered = list(enumerate(images))
            ahead = [pool.submit(prepare, one) for one in numbered[:batch_size]]
            for start in range(0, len(numbered), batch_size):
                # The next batch is decoded while this one is embedded.
                after = numbered[start + batch_size : start + 2 * batch_size]
                ahead, now = [pool.submit(prepare, one) for one in after], ahead
                yield np.stack([one.result() for one in now])

        PIL.Image.init()  # Pillow's plugins are not safe to load from several threads
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            return self._run(
                tower, width, batches(pool), len(images), batch_size, "images", progress
            )

    @torch.inference_mode()
    def _run(
        self,
        tower: Any,
        width: int,
        batches: Iterator[np.ndarray],
        n: int,
        batch_size: int,
        what: str,
        progress: bool | None,
    ) -> np.ndarray:
        found = np.empty((n, width), np.float32)
        show = progress if progress is not None else n > 4 * batch_size
        done = 0
        with (
            counted(what, n, unit=what, shown=show) as bar,
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"),
        ):
            for batch in batches:
                given = torch.from_numpy(batch).to(self.device)
                found[done : done + len(batch)] = (
                    tower(normalise(given) if what == "images" else given).float().cpu().numpy()
                )
                done += len(batch)
                bar.update(len(batch))
        return found


def weights_digest(tower: torch.nn.Module) -> str:
    """sha256 (hex) over names, shapes and values of a tower's parameters."""
    total = hashlib.sha256()
    for name, value in sorted(tower.named_parameters()):
        total.update(f"{name} {tuple(value.shape)} ".encode())
        total.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return total.hexdigest()


def _from_npz(path: Path) -> tuple[Tower, dict[str, Any]]:
    """A big_vision file holds no render config: the reference layout at its own size, with a word
    where the fonts differ.
    """
    tower = load_big_vision(path)
    return tower, {
        "render": RenderConfig(image_px=tower.image_px),
        "weights_sha256": storage.sha256_file(path),
        "warn_font": True,
    }


def _from_single_file(
    path: Path, source: str, fonts: Sequence[str] | None
) -> tuple[Tower, dict[str, Any]]:
    with open_exported(path, source) as exported:
        kinds: dict[str, type] = {"render_digest": str, "weights_sha256": str, "warn_font": bool}
        options: dict[str, Any] = {
            name: field(exported.facts, name, kind, source, error=CheckpointError)
            for name, kind in kinds.items()
        }
        if options["weights_sha256"] and not _SHA256.fullmatch(options["weights_sha256"]):
            fault = f"its weights_sha256 is {options['weights_sha256']!r}, and no sha256"
            raise refusal(CheckpointError, source, fault, "export it again")
        model = _decoded(ModelConfig, exported.facts, "model", source)
        render = _decoded(RenderConfig, exported.facts, "render", source)
        if render.fonts and fonts is None:  # an address in a stranger's file is not opened
            fault = f"it was exported with fonts of its own ({', '.join(render.fonts)})"
            raise refusal(CheckpointError, source, fault, "name them again, as fonts (--font)")
        shapes = exported.shapes
        shapes.pop(_TOKENIZER, None)
        tower = _tower_of(model, render, shapes, source)
        weights = exported.tensors()
        if model.kind in _TOKEN_KINDS:
            if _TOKENIZER not in weights:
                fault = f"its tokenizer is missing (tensor {_TOKENIZER})"
                raise refusal(CheckpointError, source, fault, "export it again")
            content = weights.pop(_TOKENIZER)
            options["text_encoder"] = _tokenizer(content, model, tower, source)
        load_weights(tower, weights, source)
    return tower, {"render": render, **options}


def _decoded(cls: type[C], facts: dict[str, Any], name: str, source: str) -> C:
    values = field(facts, name, dict, source, error=CheckpointError)
    try:
        return records.from_dict(cls, values)
    except ConfigError as error:
        raise refusal(CheckpointError, source, str(error), "export it again") from error


def _tokenizer(
    content: torch.Tensor, model: ModelConfig, tower: Tower, source: str
) -> TokenEncoder:
    """The tokenizer of an exported token tower, whose pieces the tower's embedding has rows for."""
    try:
        encoder = TokenEncoder(content.numpy().tobytes(), model.text_tokens)
    except ConfigError as error:
        raise refusal(CheckpointError, source, str(error), "export it again") from error
    rows = next(
        (len(value) for name, value in tower.named_parameters() if name.endswith(_EMBEDDING)), 0
    )
    if encoder.processor.get_piece_size() > rows:
        fault = f"its tokenizer has {encoder.processor.get_piece_size():,} pieces"
        fault += f", and its tower knows {rows:,}"
        raise refusal(CheckpointError, source, fault, "export it again")
    return encoder


def _from_checkpoint(source: str) -> tuple[Tower, dict[str, Any]]:
    from clippo_core.engine.checkpoint import open_checkpoint

    try:
        checkpoint = open_checkpoint(source)
    except NotFoundError:
        inside = RunFolder(source).checkpoints
        if not storage.exists(inside):
            raise
        checkpoint = open_checkpoint(inside)  # a run's folder was named
    weights = checkpoint.weights()
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    tower = _tower_of(checkpoint.model, checkpoint.render, shapes, checkpoint.uri)
    load_weights(tower, weights, checkpoint.uri)
    options = {
        "weights_sha256": checkpoint.info.weights_sha256,
        "render_digest": checkpoint.progress.render_digest,
    }
    return tower, {"render": checkpoint.render, **options}


def _tower_of(
    model: ModelConfig, render: RenderConfig, shapes: dict[str, tuple[int, ...]], source: str
) -> Tower:
    """The tower for weights of these shapes, unfilled; refused before memory is taken for it."""
    if model.depth * ARRAYS_PER_BLOCK > len(shapes):
        fault = f"it is said to have {model.depth:,} blocks, and has {len(shapes):,} tensors"
        raise refusal(CheckpointError, source, fault, "fetch or export it again")
    embedding = next((shape for name, shape in shapes.items() if name.endswith(_EMBEDDING)), ())
    # Built without drawing initial weights, and without reading those it once started from.
    try:
        tower = build_tower(
            model, render.image_px, device="meta", vocab_size=embedding[0] if embedding else 1
        )
    except (RuntimeError, OverflowError, TypeError, ValueError) as error:
        fault = f"its configuration is that of no tower ({reason(error)})"
        raise refusal(CheckpointError, source, fault, "fetch or export it again") from error
    check_fit(tower, shapes, source)
    return tower.to_empty(device="cpu")
