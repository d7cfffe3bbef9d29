"""Text as pixels: `Renderer(224).render(["a dog"])` -> uint8 [1, 224, 224]. See renderer.py."""

from clippo_core.rendering.census import Census
from clippo_core.rendering.encoder import TextEncoder
from clippo_core.rendering.renderer import Renderer

__all__ = ["Census", "Renderer", "TextEncoder"]
