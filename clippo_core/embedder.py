"""`Clippo`: embeddings of texts and images from any checkpoint, in two lines.

    model = Clippo.load("clippo_b16_yfcc100m")
    model.embed_images(["dog.jpg"]) @ model.embed_texts(["a dog", "a cat"]).T        cosines [1, 2]

`load` takes whatever names a model (`opening.py`). Preprocessing is the reference's: images
squashed to the tower's size (bilinear, without antialias, truncated to uint8), texts rendered as
the checkpoint was trained. Two levels:

    embed_images, embed_texts      pictures and str -> numpy arrays, in batches
    preprocess ─▶ encode_image,    tensors -> tensors, as open_clip, timm and the suites around
    draw ─▶ encode_text            them call it
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import PIL.Image
import torch

from clippo_core import hub, inputs, models, storage
from clippo_core.card import UNKNOWN, About, model_card
from clippo_core.config import ModelConfig, RenderConfig, replace
from clippo_core.data.images import fewshot_crop, squash
from clippo_core.errors import ConfigError, RenderError
from clippo_core.exported import write_exported
from clippo_core.models import Tower, normalise, resize_positions
from clippo_core.models.text import TokenEncoder
from clippo_core.opening import TOKEN_KINDS, TOKENIZER, Found, open_model, weights_digest
from clippo_core.progress import counted
from clippo_core.rendering import Renderer, TextEncoder
from clippo_core.run.records import EvalResult

Preprocess = Literal["squash", "fewshot"]
Precision = Literal["float32", "tf32", "bfloat16"]
_RESIZE = {"squash": squash, "fewshot": fewshot_crop}


class Clippo:
    """A tower, what renders (or tokenizes) its texts, and where they run."""

    def __init__(
        self,
        tower: Tower,
        render: RenderConfig,
        *,
        weights_sha256: str = "",
        device: torch.device | str | None = None,
        precision: Precision = "float32",
        text_encoder: TextEncoder | None = None,
        warn_font: bool = False,
    ) -> None:
        if precision not in get_args(Precision):
            raise ConfigError(f"precision is {precision!r}; use 'float32', 'tf32' or 'bfloat16'.")
        self.device = inputs.chosen_device(device)
        self.tower = tower.to(self.device).eval()
        self.render = replace(render, image_px=tower.image_px)
        self.renderer = Renderer.from_config(self.render, warn_font=warn_font)
        reads_tokens = tower.config.kind in TOKEN_KINDS
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
        source: str | Path | Found,
        device: torch.device | str | None = None,
        *,
        image_px: int = 0,
        fonts: Sequence[str] | None = None,
        strict_font: bool = False,
        precision: Precision = "float32",
    ) -> Clippo:
        """The model that `source` names: a released name, an .npz, a .safetensors, a run, a
        checkpoint, a promoted-NAME.json, a folder of `save_pretrained` (local or s3://), or
        hf-hub:ORG/NAME@REVISION; or what `opening.find_model` found.

        device: default CUDA where there is one. image_px: 0 = the checkpoint's; another one
        resamples the position embeddings. fonts: Unifont .hex files instead of the checkpoint's;
        released weights saw 9.0.06, and an exported file that had some needs them named.
        strict_font: raise where the fonts differ. precision: `bfloat16` is several times faster on
        a GPU, embeddings then have about three digits; `tf32` rounds the factors of products, on a
        GPU only. Raises NotFoundError, CheckpointError, ConfigError, DataError, StorageError.
        """
        chosen = inputs.chosen_device(device)
        tower, options = open_model(source, fonts)
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
            device=chosen,
            precision=precision,
            **options,
        )
        # Empty in older checkpoints of token towers, which did not record it.
        if trained_digest and is_as_trained and model.render_digest != trained_digest:
            why = (
                "drawn or tokenized otherwise than in training (fonts, layout rules or tokenizer"
                " differ)"
            )
            name = source.uri if isinstance(source, Found) else source
            warnings.warn(f"{name}: texts are {why}.", stacklevel=2)
        return model

    @classmethod
    def from_pretrained(cls, source: str | Path, *, revision: str = "", **options: Any) -> Clippo:
        """The model of a folder (or of anything else that `load` takes), or of the hub's
        repository ORG/NAME. options: as for `load`, with its errors.
        """
        source = str(source)
        is_repository = source.count("/") == 1 and not storage.exists(source)
        if is_repository and not source.startswith(hub.HUB):
            source = f"{hub.HUB}{source}"
        return cls.load(f"{source}@{revision}" if revision else source, **options)

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
        self, texts: Iterable[str], *, batch_size: int = 256, progress: bool | None = None
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
        images: Iterable[Any],
        *,
        preprocess: Preprocess = "squash",
        batch_size: int = 256,
        progress: bool | None = None,
    ) -> np.ndarray:
        """Embeddings of images, float32 [n, embed_dim], unit rows. Each is a path or s3:// address,
        the bytes of a file, a PIL image, an array uint8 [h, w, 3] or a tensor uint8 [3, h, w].

        preprocess: `squash` to the tower's size; `fewshot`: squash larger and cut the middle out.
        Raises ImageError, naming the image.
        """
        return self._images(
            self.tower.embed, self.tower.config.embed_dim, images, preprocess, batch_size, progress
        )

    def pooled_texts(
        self, texts: Iterable[str], *, batch_size: int = 256, progress: bool | None = None
    ) -> np.ndarray:
        """What the tower pools of texts, before its head, float32 [n, width]: features for
        probes.
        """
        return self._texts(
            self.tower.pooled_encoded_text, self.tower.config.width, texts, batch_size, progress
        )

    def pooled_images(
        self,
        images: Iterable[Any],
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
        images: Iterable[Any],
        names: Sequence[str],
        templates: Sequence[str] = ("{}",),
        *,
        batch_size: int = 256,
        progress: bool | None = None,
    ) -> np.ndarray:
        """Zero-shot probabilities, float32 [n_images, n_names]: softmax of logit_scale * cosine
        with each class's mean prompt.

        templates: sentences with `{}` for the name, used as they are; their embeddings are averaged
        and made unit length again.
        """
        if isinstance(names, str) or not names:
            raise ConfigError("names must be a list of at least one class name.")
        if isinstance(templates, str):
            raise ConfigError(f"templates is one str; pass a list: [{templates!r}].")
        bad = next((template for template in templates if "{}" not in template), None)
        if bad is not None or not templates:
            raise ConfigError(
                f"template {bad!r} has no {{}} where the class name goes."
                if bad is not None
                else "there is no template."
            )
        prompts = [template.replace("{}", name) for name in names for template in templates]
        classes = (
            self.embed_texts(prompts, batch_size=batch_size, progress=progress)
            .reshape(len(names), len(templates), -1)
            .mean(axis=1)
        )
        classes /= np.linalg.norm(classes, axis=1, keepdims=True) + 1e-8
        rows = self.embed_images(images, batch_size=batch_size, progress=progress)
        logits = self.tower.logit_scale.item() * rows @ classes.T
        logits = np.exp(logits - logits.max(axis=1, keepdims=True))
        return (logits / logits.sum(axis=1, keepdims=True)).astype(np.float32)

    def preprocess(self, image: Any) -> torch.Tensor:
        """One picture, in any form that `embed_images` takes, as `encode_image` reads it: float32
        [3, px, px] in -1..1. Raises ImageError.
        """
        return normalise(torch.from_numpy(self.prepared(image)))

    def draw(self, texts: str | Sequence[str]) -> torch.Tensor:
        """Texts as `encode_text` reads them, [n, ...]: masks of drawn pages, uint16 (a baseline's
        tokens, int32). Takes the place of a tokenizer.
        """
        return torch.from_numpy(self.text_encoder([texts] if isinstance(texts, str) else texts))

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """Features of prepared images, float in -1..1 or uint8 [n, 3, px, px] -> float32
        [n, embed_dim] on the model's device, unit rows; differentiable. Raises ImageError.
        """
        return self._encoded(self.tower.embed, images, "encode_image", "preprocess")

    def encode_text(self, texts: torch.Tensor) -> torch.Tensor:
        """The same of texts as `draw` gave them. Raises RenderError, ConfigError."""
        return self._encoded(self.tower.embed_encoded_text, texts, "encode_text", "draw")

    def save(self, path: str | Path) -> None:
        """Write the model as one .safetensors file (local or s3://), weights and everything needed
        to use them; `Clippo.load` reads it, without pickle. Raises ConfigError for another ending.
        """
        if not str(path).endswith(".safetensors") or Path(path).is_dir():
            raise ConfigError(
                f"{path}: save writes one file, whose name ends in .safetensors; save_pretrained"
                " writes a folder."
            )
        tensors = {
            name: value.detach().cpu().contiguous() for name, value in self.tower.named_parameters()
        }
        if isinstance(self.text_encoder, TokenEncoder):
            content = self.text_encoder.processor.serialized_model_proto()
            tensors[TOKENIZER] = torch.from_numpy(np.frombuffer(content, np.uint8).copy())
        write_exported(str(path), self._facts(), tensors)

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        results: Sequence[EvalResult] = (),
        training: Sequence[tuple[str, str]] = (),
        license: str = UNKNOWN,
        name: str = "",
        source: str = "",
    ) -> None:
        """Write a folder as the Hugging Face hub keeps them: weights, config.json, and a model card
        (README.md) with the numbers of `results`.

        folder: local or s3://; files in it are replaced. training: facts about the training, by
        name. license: of the weights, in the hub's words. name: the card's title; source: what its
        example loads; default of both: the folder's name. Raises ConfigError, StorageError.
        """
        target = str(folder).rstrip("/")
        if target.endswith((".safetensors", ".npz", ".pt", ".bin")):
            raise ConfigError(f"{folder}: save_pretrained writes a folder; `save` writes one file.")
        last, facts = Path(target).resolve().name, (*self._card_facts(), *training)
        kind = self.tower.config.kind
        about = About(name or last, facts, license, source or last, kind)
        hub.write_folder(target, self.save, self._facts(), model_card(about, results))

    def push_to_hub(
        self, name: str, *, private: bool = False, token: str | None = None, **card: Any
    ) -> str:
        """Put the folder of `save_pretrained` into the hub's repository ORG/NAME; returns its
        address with the commit, for `load`. card: as for `save_pretrained`. Raises StorageError.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, **{"name": name, "source": name} | card)
            return hub.push_folder(
                folder, name, private=private, token=token, message="A CLIPPO model"
            )

    def prepared(
        self, image: Any, name: str = "the image", preprocess: Preprocess = "squash"
    ) -> np.ndarray:
        """One picture as the tower reads it, uint8 [3, px, px]. `name` is what errors call it.
        Raises ImageError, ConfigError.
        """
        square = _RESIZE[_known(preprocess)](inputs.pixels(image, name), self.image_px)
        return np.ascontiguousarray(square.transpose(2, 0, 1))

    def embed_prepared(self, batch: np.ndarray, what: Literal["texts", "images"]) -> np.ndarray:
        """Embeddings of one batch of `prepared` images [n, 3, px, px], or of texts as
        `text_encoder` gave them, float32 [n, embed_dim], unit rows.
        """
        tower = self.tower.embed if what == "images" else self.tower.embed_encoded_text
        return self._embedded(tower, batch)

    def _facts(self) -> dict[str, Any]:
        """What an exported file's header says beside the weights."""
        return {
            "model": dataclasses.asdict(self.tower.config),
            "render": dataclasses.asdict(self.render),
            "render_digest": self.render_digest,
            "weights_sha256": self.weights_sha256,
            "warn_font": self.renderer.warn_font,
        }

    def _card_facts(self) -> list[tuple[str, str]]:
        config = self.tower.config
        count = sum(parameter.numel() for parameter in self.tower.parameters())
        fonts = ", ".join(Path(font).name for font in self.render.fonts)
        texts = [
            ("font", fonts or "GNU Unifont, as shipped with clippo-flyte"),
            ("layout of texts", self.render.layout),
        ]
        if config.kind in TOKEN_KINDS:
            texts = [("texts", f"SentencePiece, {config.text_tokens} tokens")]
        return [
            ("tower", f"{config.kind}, width {config.width}, depth {config.depth}"),
            ("parameters", f"{count:,}"),
            ("images", f"{self.image_px} x {self.image_px} px, patches of {config.PATCH_PX}"),
            ("embedding", f"{config.embed_dim} numbers"),
            *texts,
            ("digest of rendering", self.render_digest),
            ("sha256 of weights", self.weights_sha256),
        ]

    def _texts(
        self, tower: Any, width: int, texts: Iterable[str], batch_size: int, progress: bool | None
    ) -> np.ndarray:
        if isinstance(texts, (str, bytes)):
            raise RenderError(f"texts is one {type(texts).__name__}; pass a list of str.")
        inputs.check_batch_size(batch_size)
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
        images: Iterable[Any],
        preprocess: Preprocess,
        batch_size: int,
        progress: bool | None,
    ) -> np.ndarray:
        inputs.check_batch_size(batch_size)
        _known(preprocess)
        numbered = enumerate(inputs.pictures(images))
        n = len(images) if isinstance(images, Sized) else None

        def prepare(one: tuple[int, Any]) -> np.ndarray:
            return self.prepared(one[1], f"image {one[0]}", preprocess)

        def batches(pool: ThreadPoolExecutor) -> Iterator[np.ndarray]:
            def submit() -> list[Any]:
                return [pool.submit(prepare, one) for one in itertools.islice(numbered, batch_size)]

            ahead = submit()
            while now := ahead:
                ahead = submit()  # the next batch is decoded while this one is embedded
                yield np.stack([one.result() for one in now])

        PIL.Image.init()  # Pillow's plugins are not safe to load from several threads
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            return self._run(tower, width, batches(pool), n, batch_size, "images", progress)

    def _run(
        self,
        tower: Any,
        width: int,
        batches: Iterator[np.ndarray],
        n: int | None,
        batch_size: int,
        what: str,
        progress: bool | None,
    ) -> np.ndarray:
        """Rows of all batches, float32 [n, width]; n None: of how many is not known before."""
        found = [np.empty((0, width), np.float32)]
        show = progress if progress is not None else n is None or n > 4 * batch_size
        with counted(what, n or 0, unit=what, shown=show) as bar:
            for batch in batches:
                found.append(self._embedded(tower, batch))
                bar.update(len(batch))
        return np.concatenate(found)

    @torch.inference_mode()
    def _embedded(self, tower: Any, batch: np.ndarray) -> np.ndarray:
        """One batch, prepared, through a part of the tower."""
        given = torch.from_numpy(batch).to(self.device)
        with self.in_precision():
            rows: np.ndarray = tower(given).float().cpu().numpy()
        return rows

    def _encoded(self, tower: Any, given: Any, name: str, maker: str) -> torch.Tensor:
        if not isinstance(given, torch.Tensor):
            raise ConfigError(
                f"{name} takes a tensor, as `{maker}` gives it, and got {type(given).__name__};"
                " embed_images and embed_texts take pictures and str."
            )
        with self.in_precision():
            features: torch.Tensor = tower(given.to(self.device))
        return features.float()

    @contextmanager
    def in_precision(self) -> Iterator[None]:
        """Within it the tower computes as `precision` says; tf32 differs from float32 on a GPU
        only.
        """
        products = torch.backends.cuda.matmul
        before = products.fp32_precision
        if self.precision == "tf32":
            products.fp32_precision = "tf32"
        try:
            with torch.autocast(
                self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"
            ):
                yield
        finally:
            products.fp32_precision = before


def _known(preprocess: str) -> str:
    if preprocess not in _RESIZE:
        raise ConfigError(f"preprocess is {preprocess!r}; use 'squash' or 'fewshot'.")
    return preprocess
