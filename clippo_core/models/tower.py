"""CLIPPO: one vision transformer that reads photos and rendered text (big_vision
models/proj/clippo/one_tower.py, models/vit.py).

    image [3, H, W] in -1..1 ─▶ 16x16 patches ─▶ + positions ─▶ depth × pre-LN block ─▶ LN
                             ─▶ MAP head ─▶ Dense ─▶ z / (‖z‖ + 1e-8)
    logits = exp(t) · z_first · z_secondᵀ,   t starts at log 10, no bias, no clamp

Blocks and MAP head are timm's, with the reference's LayerNorm epsilon (1e-6), tanh GELU and
initialisation; parameter names are those of timm's `VisionTransformer(class_token=False,
global_pool="map")`, plus `t`. `forward` is the one entry of the training engines: every parameter
is used inside it. The loss is in `losses.py`, the rendering of text in `rendering/`, the towers
that read tokens in `baselines.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from clippo_core.config import ModelConfig
from clippo_core.errors import ConfigError, ImageError
from clippo_core.models.blank_rows import Spans, pack
from clippo_core.models.packed_attention import packed_modules
from clippo_core.models.patches import PatchProduct
from clippo_core.models.timm_shim import load_timm
from clippo_core.rendering.draw import expand, used_rows

Recompute = Literal["none", "pointwise", "blocks"]


class Tower(nn.Module):
    """CLIPPO, or (kind `image_only`) a plain ViT with a MAP head and nothing behind it. Built by
    `build_tower`.
    """

    def __init__(self, config: ModelConfig, image_px: int) -> None:
        super().__init__()
        if image_px < ModelConfig.PATCH_PX or image_px % ModelConfig.PATCH_PX:
            raise ConfigError(
                f"image_px is {image_px}; a tower reads square images of a multiple of"
                f" {ModelConfig.PATCH_PX} pixels."
            )
        self.config = config
        self.image_px = image_px
        self.recompute: Recompute = "none"
        n_patches = (image_px // ModelConfig.PATCH_PX) ** 2
        self.patch_embed = _patch_embed(config)
        self.pos_embed = nn.Parameter(torch.empty(1, n_patches, config.width))
        self.blocks = transformer_blocks(config)
        self.norm = layer_norm(config.width)
        self.attn_pool = _map_head(config)
        if config.separate_patch_embeddings:
            self.text_patch_embed = _patch_embed(config)
        if config.separate_heads:
            self.text_attn_pool = _map_head(config)
            self.text_head = nn.Linear(config.width, config.embed_dim)
        if config.kind != "image_only":
            self.head = nn.Linear(config.width, config.embed_dim)
            self.t = nn.Parameter(torch.empty(1))
        self._note_names()

    def forward(
        self, photos: Tensor, first_text: Tensor, second_text: Tensor, *text_rows: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Both sides of p photo/text pairs and m text/text pairs, photos first.

        photos: uint8, or float in -1..1, [p, 3, H, W];  first_text: [m, ...] and second_text:
        [p + m, ...] as `text_encoder` gave them, or as pixels in -1..1, [..., 1, H, W]
        (`rendering/augment.py`). text_rows, read under `skip_blank_rows` alone: rows up to the last
        with ink of the first and of the second texts, int64 [m] and [p + m] on the host
        (`used_rows`); without them the masks are looked at, which a GPU waits for.
        p or m may be 0. Returns first and second features, float32 [p + m, embed_dim] with unit
        rows, and the logit scale exp(t), 0-d.
        """
        if self.config.kind == "image_only":
            raise ConfigError(
                "model.kind image_only has no contrastive head; fine-tune it, or train one of the"
                " other kinds."
            )
        n_photos, n_first = len(photos), len(first_text)
        if len(second_text) != n_photos + n_first:
            raise ValueError(
                f"{n_photos} photos and {n_first} first texts need as many second texts; there are"
                f" {len(second_text)}."
            )
        if n_photos:
            self._check_shape(photos)
        text = torch.cat([first_text, second_text])
        if self.config.skip_blank_rows:
            rows = torch.cat(text_rows) if text_rows else None
            photo_features, text_features = self._packed_features(photos, text, rows)
        else:
            photo_features, text_features = self._both_features(photos, text)
        first = torch.cat([photo_features, text_features[:n_first]])
        return first, text_features[n_first:], self.logit_scale

    @property
    def logit_scale(self) -> Tensor:
        """exp(t), 0-d: what the cosines are multiplied with."""
        return self.t.exp().reshape(())

    def embed(self, images: Tensor) -> Tensor:
        """Embeddings of images, float in -1..1 (or uint8) [n, 3, H, W] -> float32 [n, embed_dim],
        unit rows. Raises ImageError.
        """
        return unit_rows(project(self._projection(), self.pooled(images)))

    def embed_encoded_text(self, encoded: Tensor) -> Tensor:
        """Embeddings of texts as `text_encoder` gave them, [n, ...] -> float32 [n, embed_dim], unit
        rows.
        """
        return unit_rows(project(self._projection(text=True), self.pooled_encoded_text(encoded)))

    def pooled(self, images: Tensor) -> Tensor:
        """What the MAP head makes of images, float in -1..1 (or uint8) [n, 3, H, W] -> [n, width]:
        features for probes and fine-tuning.
        """
        self._check_shape(images)
        self._check_range(images)
        return self.attn_pool(self._trunk(self._photo_tokens(images)))

    def pooled_encoded_text(self, encoded: Tensor) -> Tensor:
        """The same of texts as `text_encoder` gave them, [n, ...] -> [n, width]."""
        if self.config.skip_blank_rows:
            no_photo = encoded.new_empty(0, 3, self.image_px, self.image_px, dtype=torch.uint8)
            return self._packed(no_photo, encoded, None)[1]
        return self._text_pool()(self._trunk(self._text_tokens(encoded)))

    def set_recompute(self, mode: Recompute) -> None:
        """Which activations backward computes again: `none`; `pointwise` (LayerNorm, GELU, sums; no
        matrix product twice); `blocks`.
        """
        if mode not in ("none", "pointwise", "blocks"):
            raise ConfigError(f"recompute mode is {mode!r}; use 'none', 'pointwise' or 'blocks'.")
        self.recompute = mode

    def compile_blocks(self, backend: str | Callable[..., Any] = "inductor") -> None:
        """Compile each block by itself, all of one shape into one graph: a compiled tower would be
        a single operator of backward, whose gradients all come at its end, too late to exchange
        them meanwhile. A new shape is a new graph, but under `skip_blank_rows`, which meets many.
        """
        dynamic = self.config.skip_blank_rows
        for module in self.modules():
            if isinstance(module, Blocks):
                module.run_one = torch.compile(run_block, backend=backend, dynamic=dynamic)

    def _both_features(self, photos: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Unit features of photos and of texts: one pass over both, concatenated."""
        n_photos = len(photos)
        if self.config.separate_patch_embeddings:
            tokens = torch.cat([self._photo_tokens(photos), self._text_tokens(text)])
        else:
            tokens = self._positioned(
                self.patch_embed, torch.cat([normalise(photos), _text_pixels(text)])
            )
        if not self.config.separate_heads:
            features = self._features(tokens)
            return features[:n_photos], features[n_photos:]
        hidden = self._trunk(tokens)
        photo_features = project(self.head, at_least_one(self.attn_pool, hidden[:n_photos]))
        text_features = project(
            self.text_head, at_least_one(self.text_attn_pool, hidden[n_photos:])
        )
        return unit_rows(photo_features), unit_rows(text_features)

    def _photo_features(self, photos: Tensor) -> Tensor:
        """Unit features of photos alone. Where a rank has none, one black photo goes through and is
        dropped: see `at_least_one`.
        """
        n_photos = len(photos)
        photos = photos if n_photos else photos.new_zeros(1, 3, self.image_px, self.image_px)
        return self._features(self._photo_tokens(photos))[:n_photos]

    def _features(self, tokens: Tensor) -> Tensor:
        return unit_rows(project(self.head, self.attn_pool(self._trunk(tokens))))

    def _packed_features(
        self, photos: Tensor, text: Tensor, rows: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Unit features of photos and of texts without their blank rows."""
        photo_pooled, text_pooled = self._packed(photos, text, rows)
        return unit_rows(project(self.head, photo_pooled)), unit_rows(
            project(self._projection(text=True), text_pooled)
        )

    def _packed(self, photos: Tensor, text: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the MAP heads make of photos and of texts without their blank rows: [p, width],
        [n, width].
        """
        if not len(text):
            text, rows = text.new_zeros(1, *text.shape[1:]), torch.ones(1, dtype=torch.int64)
            photo_pooled, text_pooled = self._packed(photos, text, rows)
            return photo_pooled, text_pooled[:0]
        if rows is None and text.ndim == 4:
            raise ValueError("pixels do not say which rows are blank; give the rows of the texts.")
        rows = used_rows(text) if rows is None else rows
        if len(rows) != len(text):
            raise ValueError(f"there are {len(rows)} heights for {len(text)} texts.")
        packing = pack(rows, len(photos), self._page_rows, self.pos_embed.device)
        photo_tokens = self._photo_tokens(photos).flatten(0, 1)
        tokens = torch.cat([photo_tokens, self._row_tokens(text, packing.source)])
        hidden = run_blocks(self.blocks, self.norm, tokens, self.recompute, packing.images)
        n = len(photo_tokens)
        photo_hidden = hidden[:n].view(len(photos), self._page_rows**2, self.config.width)
        pooled = self._text_pool()(hidden[n:], attn_mask=packing.texts)
        return at_least_one(self.attn_pool, photo_hidden), pooled[packing.place]

    def _row_tokens(self, text: Tensor, source: Tensor) -> Tensor:
        """Tokens [rows * patches in a row, width], with positions, of the rows `source` of texts as
        `forward` takes them, all pages' rows numbered through.
        """
        if text.ndim == 4:
            rows = text.reshape(-1, ModelConfig.PATCH_PX, text.shape[-1])[source]
            images = rows.unsqueeze(1).expand(-1, 3, -1, -1)
        else:
            images = expand(text.view(torch.int16).flatten(0, 1)[source].unsqueeze(1))
        tokens = self._text_embedding()(images.to(self.pos_embed.dtype))
        positions = self.pos_embed.view(self._page_rows, self._page_rows, -1)
        return (tokens + positions[source % self._page_rows]).flatten(0, 1)

    @property
    def _page_rows(self) -> int:
        return self.image_px // ModelConfig.PATCH_PX

    def _photo_tokens(self, photos: Tensor) -> Tensor:
        """[n, 3, H, W] -> [n, patches, width] with positions."""
        return self._positioned(self.patch_embed, normalise(photos))

    def _text_tokens(self, encoded: Tensor) -> Tensor:
        """Column masks uint16 [n, H/16, W], or pixels [n, 1, H, W] -> [n, patches, width] with
        positions.
        """
        return self._positioned(self._text_embedding(), _text_pixels(encoded))

    def _positioned(self, embedding: nn.Module, images: Tensor) -> Tensor:
        images = images.to(self.pos_embed.dtype)
        tokens = at_least_one(embedding, images)
        return tokens + self.pos_embed[:, : tokens.shape[1]]

    def _trunk(self, tokens: Tensor) -> Tensor:
        return run_blocks(self.blocks, self.norm, tokens, self.recompute)

    def _text_embedding(self) -> nn.Module:
        return self.text_patch_embed if self.config.separate_patch_embeddings else self.patch_embed

    def _text_pool(self) -> nn.Module:
        return self.text_attn_pool if self.config.separate_heads else self.attn_pool

    def _projection(self, text: bool = False) -> nn.Linear:
        if self.config.kind == "image_only":
            raise ConfigError(
                "model.kind image_only has no embedding head; use `pooled` for its features."
            )
        return self.text_head if text and self.config.separate_heads else self.head

    def _check_shape(self, images: Tensor) -> None:
        expected = (3, self.image_px, self.image_px)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            raise ImageError(
                f"images have shape {tuple(images.shape)}; this tower reads [n, 3, {self.image_px},"
                f" {self.image_px}]. Resize the images, or the tower with models.resize_positions."
            )

    def _check_range(self, images: Tensor) -> None:
        if not images.is_floating_point() or images.is_meta or torch.compiler.is_exporting():
            return
        if not images.numel():
            return
        low, high = images.aminmax()
        if not (low >= -1.01 and high <= 1.01):
            raise ImageError(
                f"images range from {low.item():.4g} to {high.item():.4g}; this tower reads -1..1. "
                "Pass uint8 images, or float ones through models.normalise (x / 255 * 2 - 1)."
            )

    def _note_names(self) -> None:
        """Which parameters are decayed and how they are factored; noted while shapes are whole
        (ZeRO-3 empties them).
        """
        self.decayed: set[str] = set()
        self.views: dict[str, tuple[int, ...]] = {}
        for name, parameter in self.named_parameters():
            if name.endswith(".weight") and parameter.ndim > 1 and "token_embed" not in name:
                self.decayed.add(name)
            view = _per_head(name, self.config)
            if view:
                self.views[name] = view


def normalise(photos: Tensor) -> Tensor:
    """uint8 0..255 -> float32 -1..1 (x / 255 * 2 - 1, big_vision `value_range(-1, 1)`); floats pass
    as they are.
    """
    return (
        photos if photos.is_floating_point() else photos.to(torch.float32).div_(255).mul_(2).sub_(1)
    )


def _text_pixels(encoded: Tensor) -> Tensor:
    """[n, 3, H, W] in -1..1 of column masks uint16 [n, H/16, W], or of pixels that are already
    there, [n, 1, H, W].
    """
    return encoded.expand(-1, 3, -1, -1) if encoded.ndim == 4 else expand(encoded)


def unit_rows(z: Tensor) -> Tensor:
    """z / (‖z‖ + 1e-8), float32 (float64 stays)."""
    z = z.float() if z.dtype in (torch.bfloat16, torch.float16) else z
    return z / (torch.linalg.vector_norm(z, dim=-1, keepdim=True) + 1e-8)


def project(head: nn.Module, pooled: Tensor) -> Tensor:
    """The head in full precision, also under autocast: features decide the loss and cost next to
    nothing.
    """
    with torch.autocast(pooled.device.type, enabled=False):
        weight_type = next(head.parameters()).dtype
        return head(pooled.to(weight_type))


def at_least_one(module: nn.Module, x: Tensor) -> Tensor:
    """module(x), also for no rows: one row of zeros goes through and is dropped, so that gradients
    (0) exist on every rank. An exported graph, which nobody trains, takes any number of rows.
    """
    if torch.compiler.is_exporting() or len(x):
        return module(x)
    return module(x.new_zeros(1, *x.shape[1:]))[:0]


def layer_norm(width: int, **kwargs: Any) -> nn.LayerNorm:
    """LayerNorm with flax's epsilon."""
    return nn.LayerNorm(width, eps=1e-6, **kwargs)


class Blocks(nn.Sequential):
    """Transformer blocks, and what runs one of them: `run_block`, as it is or compiled."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__(*blocks)
        self.run_one: Callable[..., Tensor] = run_block


def transformer_blocks(config: ModelConfig) -> Blocks:
    """`depth` pre-LN blocks of timm, with the reference's LayerNorm and GELU."""
    block = load_timm().models.vision_transformer.Block
    shape: Any = {
        "dim": config.width,
        "num_heads": config.num_heads,
        "mlp_ratio": _mlp_ratio(config),
    }
    if config.skip_blank_rows:
        shape["attn_layer"] = packed_modules().attention
    return Blocks(
        *[
            block(**shape, qkv_bias=True, norm_layer=layer_norm, act_layer=_gelu)
            for _ in range(config.depth)
        ]
    )


def run_blocks(
    blocks: Blocks,
    norm: nn.Module,
    x: Tensor,
    recompute: Recompute,
    spans: Spans | None = None,
) -> Tensor:
    """Blocks and final LayerNorm over tokens [n, length, width], or packed ones [tokens, width]
    with their `spans`; activations are recomputed as told.
    """
    for block in blocks:
        x = blocks.run_one(block, x, recompute, spans)
    return norm(x)


def run_block(
    block: nn.Module, x: Tensor, recompute: Recompute, spans: Spans | None = None
) -> Tensor:
    """One block over tokens [n, length, width], or packed ones [tokens, width] with their `spans`.

    What is recomputed is chosen in here, so that a compiler sees it: around a compiled block,
    `pointwise` would not know its matrix products.
    """
    within: Any = {} if spans is None else {"attn_mask": spans}
    if recompute == "none" or not torch.is_grad_enabled():
        return block(x, **within)
    contexts: Any = {}
    if recompute == "pointwise":
        contexts = {
            "context_fn": partial(create_selective_checkpoint_contexts, _keep_matrix_products)
        }
    return checkpoint(block, x, use_reentrant=False, preserve_rng_state=False, **contexts, **within)


_MATRIX_PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "convolution", "linear"}
_ATTENTIONS = {"packed_attention", "_varlen_attn"}


def _keep_matrix_products(
    context: Any, operator: Any, *args: Any, **kwargs: Any
) -> CheckpointPolicy:
    name = operator.__name__.partition(".")[0]
    if name in _MATRIX_PRODUCTS or name in _ATTENTIONS or "scaled_dot_product" in name:
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


def _patch_embed(config: ModelConfig) -> nn.Module:
    # Sizes are checked by the tower, which names them; timm's own check would only assert.
    px = ModelConfig.PATCH_PX
    embedding = load_timm().layers.PatchEmbed(None, px, 3, config.width, strict_img_size=False)
    embedding.proj = PatchProduct(3, config.width, px)
    return embedding


def _map_head(config: ModelConfig) -> nn.Module:
    latent = load_timm().layers.AttentionPoolLatent
    pool: Any = packed_modules().pool if config.skip_blank_rows else latent
    shape = {"num_heads": config.num_heads, "mlp_ratio": _mlp_ratio(config)}
    return pool(config.width, **shape, norm_layer=layer_norm, act_layer=_gelu)


def _mlp_ratio(config: ModelConfig) -> float:
    """timm takes int(width * ratio): aim half a unit above mlp_dim, so that rounding cannot fall
    short of it.
    """
    return (config.mlp_dim + 0.5) / config.width


_gelu = partial(nn.GELU, approximate="tanh")


def _per_head(name: str, config: ModelConfig) -> tuple[int, ...]:
    """Shape in which the reference holds a fused attention tensor: per projection and head; ()
    where it is the tensor's own.
    """
    heads = (config.num_heads, config.width // config.num_heads)
    owner, _, kind = name.rpartition(".")
    if owner.endswith(("attn.proj", "attn_pool.proj")):
        return (config.width, *heads) if kind == "weight" else ()
    fused = {"qkv": (3,), "kv": (2,), "q": ()}.get(owner.rpartition(".")[2])
    if fused is None:
        return ()
    return (*fused, *heads, config.width) if kind == "weight" else (*fused, *heads)
