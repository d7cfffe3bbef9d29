"""Libraries that only some commands need, and the extra of the package that brings each.

    with optional_import():
        import boto3        ─▶ ConfigError: boto3 is not installed; pip install 'clippo-flyte[s3]'.

What `pip install clippo-flyte` itself brings (torch, timm, numpy, pillow, safetensors, tqdm) is not
named here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from clippo_core.errors import ConfigError

EXTRAS = {
    "boto3": "s3",
    "botocore": "s3",
    "sentencepiece": "text",
    "jinja2": "report",
    "markupsafe": "report",
    "matplotlib": "report",
    "num2words": "report",
    "pyarrow": "report",
    "scipy": "report",
    "sklearn": "report",
    "datasets": "train",
    "deepspeed": "train",
    "duckdb": "train",
    "fsspec": "train",
    "great_expectations": "train",
    "pandas": "train",
    "yaml": "train",
}
"""Module -> the smallest extra that brings it."""


@contextlib.contextmanager
def optional_import() -> Iterator[None]:
    """Turn the failed import of such a library into a ConfigError that says what to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in EXTRAS:
            raise
        raise ConfigError(
            f"{module} is not installed; pip install 'clippo-flyte[{EXTRAS[module]}]'."
        ) from error
