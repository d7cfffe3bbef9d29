"""What turns texts into a tower's input, whatever that input is.

encoder: TextEncoder = Renderer(224)                column masks   uint16 [n, 14, 224]
encoder: TextEncoder = TokenEncoder(path, 16)       token ids      int32 [n, 16]      (`models/`)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from numpy.typing import NDArray


class TextEncoder(Protocol):
    """`Renderer`, or a token tower's `TokenEncoder`. Both can be pickled, for the loader's
    processes.
    """

    def __call__(self, texts: Sequence[str], /) -> NDArray[Any]:
        """The tower's input for n texts, [n, ...]. Raises RenderError for a text that is no str."""

    @property
    def digest(self) -> str:
        """sha256 (hex) over everything that decides a value of that input."""
