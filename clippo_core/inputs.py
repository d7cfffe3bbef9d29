"""What a caller hands to `Clippo`: pictures in whichever form, a device, a size of batches; what
cannot be used is refused in a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch

from clippo_core.data.images import decode_image
from clippo_core.errors import ConfigError, ImageError
from clippo_core.untrusted.names import printable, reason, refusal

_FORMS = "a path, the bytes of a file, a PIL image, an array uint8 [h, w, 3] or a tensor uint8"
_FORMS += " [3, h, w]"
_WEB = re.compile(r"https?:/", re.IGNORECASE)


def pictures(images: Iterable[Any]) -> Iterator[Any]:
    """The pictures of a list, an array [n, h, w, 3], a tensor [n, 3, h, w] or a generator. Raises
    ConfigError for one picture alone, and for what is none of these.
    """
    is_one = isinstance(images, (str, bytes, Path, PIL.Image.Image)) or (
        isinstance(images, (np.ndarray, torch.Tensor))
        and images.ndim < 4
        and images.dtype != object
    )
    if is_one:
        raise ConfigError(f"images is one {type(images).__name__}; pass a list of images.")
    try:
        return iter(images)
    except TypeError as error:
        raise ConfigError(
            f"images is {type(images).__name__}; pass a list, each of it {_FORMS}."
        ) from error


def pixels(image: Any, name: str) -> np.ndarray:
    """uint8 [h, w, 3] of one picture. `name` is what errors call it. Raises ImageError."""
    if isinstance(image, (np.ndarray, torch.Tensor)):
        return _array(image, name)
    if isinstance(image, str) and _WEB.match(image):
        fault = "it is a web address, and nothing here reads from the web"
        raise refusal(ImageError, image, fault, "download it, and give its path")
    if isinstance(image, (str, bytes, Path, PIL.Image.Image)):
        return decode_image(image, str(image) if isinstance(image, (str, Path)) else name)
    raise ImageError(f"{name} is {type(image).__name__}; give {_FORMS}.")


def chosen_device(device: torch.device | str | None) -> torch.device:
    """The device of a name; None = CUDA where there is one. Raises ConfigError for one that is not
    here.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        if found.type == "meta":
            raise RuntimeError("nothing is computed there")
        torch.empty(0, device=found)
    # torch raises an AssertionError where it was built without CUDA.
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        n_gpus = torch.cuda.device_count()
        here = ", ".join(["cpu", *(f"cuda:{n}" for n in range(n_gpus))])
        raise ConfigError(
            f"device {printable(str(device))} cannot be used ({reason(error)}); this machine has"
            f" {here}."
        ) from error
    return found


def check_batch_size(batch_size: int) -> None:
    """Raise ConfigError for what is no number of rows."""
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size!r}; give a whole number of at least 1.")


def _array(image: np.ndarray | torch.Tensor, name: str) -> np.ndarray:
    is_tensor = isinstance(image, torch.Tensor)
    colours = image.shape[0 if is_tensor else -1] if image.ndim == 3 else 0
    if str(image.dtype).removeprefix("torch.") != "uint8" or colours != 3 or 0 in image.shape:
        kind, wanted = ("a tensor", "[3, h, w]") if is_tensor else ("an array", "[h, w, 3]")
        raise ImageError(
            f"{name} is {kind} {image.dtype} {list(image.shape)}; {kind} of a picture is uint8"
            f" {wanted}, 0 to 255. `encode_image` takes prepared batches."
        )
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu().permute(1, 2, 0).numpy()
    return np.ascontiguousarray(image)
