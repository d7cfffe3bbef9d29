"""An encoder for mteb, of any model that Clippo.load takes.

    import mteb
    from clippo_core.adapters.mteb import ClippoEncoder
    mteb.evaluate(ClippoEncoder("clippo_b16_yfcc100m"), mteb.get_tasks(["Flickr30kT2IRetrieval"]))

Instructions and prompts that mteb knows of are left out: no text was trained with them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from clippo_core.embedder import Clippo
from clippo_core.errors import ConfigError


class ClippoEncoder:
    """mteb's EncoderProtocol."""

    def __init__(
        self,
        model_name: str,
        revision: str | None = None,
        *,
        device: str | None = None,
        **options: Any,
    ) -> None:
        """model_name: what Clippo.load takes; options: its options. Raises what it raises."""
        if revision and not model_name.startswith("hf-hub:"):
            raise ConfigError(f"{model_name} has no revisions; only hf-hub:ORG/NAME has.")
        self.name = model_name
        self.model = Clippo.load(
            f"{model_name}@{revision}" if revision else model_name, device, **options
        )

    def encode(self, inputs: Iterable[dict[str, Any]], **kwargs: Any) -> np.ndarray:
        """Embeddings of all batches, float32 [n, embed_dim]: of their texts, their images, or the
        sum of both where a batch has both.
        """
        rows = [self._batch(batch) for batch in inputs]
        if not rows:
            raise ConfigError("there is nothing to encode: mteb gave no batch.")
        return np.concatenate(rows)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Cosines, [n, m]."""
        return _unit(embeddings1) @ _unit(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Cosines of the rows with the same number, [n]."""
        return (_unit(embeddings1) * _unit(embeddings2)).sum(dim=1)

    @property
    def mteb_model_meta(self) -> Any:
        """What mteb writes beside results."""
        from mteb.models import ModelMeta

        config = self.model.model
        name = self.name.removeprefix("hf-hub:").partition("@")[0]
        if name.count("/") != 1 or name.startswith("/"):
            place = hashlib.sha256(self.name.encode()).hexdigest()[:8]
            name = f"clippo/{self.name.strip('/').rpartition('/')[2] or place}"
        return ModelMeta(
            loader=None,
            name=name,
            revision=self.model.weights_sha256[:40],
            release_date=None,
            languages=None,
            n_parameters=sum(one.numel() for one in self.model.tower.parameters()),
            memory_usage_mb=None,
            max_tokens=None,
            embed_dim=config.embed_dim,
            license=None,
            open_weights=True,
            public_training_code=None,
            public_training_data=None,
            framework=["PyTorch"],
            similarity_fn_name="cosine",
            use_instructions=False,
            training_datasets=None,
            modalities=["image", "text"],
        )

    def _batch(self, batch: dict[str, Any]) -> np.ndarray:
        parts = []
        if "text" in batch:
            parts.append(self.model.embed_texts(batch["text"], progress=False))
        if "image" in batch:
            parts.append(self.model.embed_images(batch["image"], progress=False))
        if not parts:
            raise ConfigError(f"mteb gave {', '.join(batch)}; CLIPPO reads text and image.")
        return np.sum(parts, axis=0) if len(parts) > 1 else parts[0]


def _unit(rows: Any) -> torch.Tensor:
    given = torch.as_tensor(np.asarray(rows))
    given = given[None] if given.ndim == 1 else given
    return given / given.norm(dim=1, keepdim=True).clamp_min(1e-12)
