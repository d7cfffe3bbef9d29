"""Pairs of a dataset on the Hugging Face hub: its parquet files, read as those on a disk are.

    org/name ─▶ the library `datasets` ─▶ files of a split ─▶ our decoder ─▶ records

The library says which files belong to a split, and no more: its own readers take the memory that a
file claims, and a README of a stranger may name any file of this machine. With HF_HUB_OFFLINE the
files lie in the hub's cache on this machine (`hf download --repo-type dataset org/name`).
"""

from __future__ import annotations

import collections
import contextlib
import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

from clippo_core.config import SourceConfig
from clippo_core.data.pairs import PhotoRecord
from clippo_core.data.sources import tables
from clippo_core.errors import ClippoError, DataError
from clippo_core.extras import optional_import
from clippo_core.untrusted.json import load_json
from clippo_core.untrusted.limits import LIMITS
from clippo_core.untrusted.names import name_problem, printable, reason, refusal
from clippo_core.untrusted.text import read_text, read_whole
from clippo_core.untrusted.yaml import load_yaml

_BLOCK_BYTES, _BLOCKS = 4 * 2**20, 32
"""What is asked of the hub at a time, and how many such blocks are kept: a row group of 100 photos
is looked through for its pages and then read, and both by pieces."""
_CONVERTED = "refs/convert/parquet"
"""The branch in which the hub itself writes a dataset as parquet."""
_NUMBERED = re.compile(r"[0-9]+-of-([0-9]+)(?=\.parquet$)")


def hub_records(source: SourceConfig, language: str = "en") -> Iterator[PhotoRecord]:
    """Records of a dataset at the revision that the plan pinned, streamed. Raises DataError."""
    with _words(source):
        found = _listed(source)
    return tables.row_records(source, found, lambda name: _opened(name, found[name]), language)


def hub_columns(source: SourceConfig) -> list[str]:
    """The columns of a dataset. Raises DataError."""
    absent = "there is no such file or folder, and it cannot be read from Hugging Face's hub"
    with _words(source, absent, "check the path, or the name on the hub"):
        found = _listed(source)
    return tables.column_names(found, lambda name: _opened(name, found[name]))


def pinned(source: SourceConfig) -> str:
    """The commit that a dataset's branch or tag stands at on the hub. Raises DataError where it
    cannot be asked, and `revision` is no commit; and for a folder here, which `datasets` would take
    instead.
    """
    import huggingface_hub

    if Path(source.path).exists():
        fault = "it names a folder here and perhaps a dataset on the hub"
        raise refusal(DataError, source.path, fault, f"write ./{source.path} for the folder")
    revision = source.revision
    if len(revision) == 40 and set(revision) <= set("0123456789abcdef"):
        return revision
    try:
        about = huggingface_hub.HfApi().dataset_info(source.path, revision=revision or None)
        return str(about.sha)
    except Exception as error:  # of the hub and the network
        fault = f"its revision cannot be looked up on the hub ({reason(error)})"
        raise refusal(DataError, source.path, fault, "set `revision` to a commit") from error


def _listed(source: SourceConfig) -> dict[str, str]:
    """Names of the parquet files of a split, in its order -> where they lie. Raises DataError where
    a file is none of the dataset's, no parquet, or missing; and whatever the library raises.
    """
    with optional_import():
        import datasets
    import huggingface_hub

    split, where, revision = source.split or "train", _where(source), source.revision or None
    home, place = source.path, f"hf://datasets/{source.path}@{revision or 'main'}"
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        home = place = huggingface_hub.snapshot_download(
            home, repo_type="dataset", revision=revision, local_files_only=True
        )
    _check_cards(place, source.path)
    builder = datasets.load_dataset_builder(home, revision=revision)
    found: dict[str, list[str]] = dict(builder.config.data_files or {})
    if split not in found:
        fault = f"it has no split {split}, but {', '.join(map(str, found)) or 'none'}"
        raise refusal(DataError, where, fault, "set `split`")
    home = builder.base_path
    home = home if "://" in home else str(Path(home).resolve())
    listed = {}
    for uri in found[split]:
        name = uri.removeprefix(f"{home}/")
        if name == uri or "::" in uri or name_problem(name):
            fault = f"its README names {printable(uri, 120)}, which is no file of it"
            raise refusal(DataError, where, fault, "do not use it")
        if not name.endswith(".parquet"):
            fault = f"its file {printable(name, 120)} is no parquet"
            remedy = f"set `revision` to {_CONVERTED}, or fetch its files as another kind of source"
            raise refusal(DataError, where, fault, remedy)
        listed[f"{source.path}/{name}"] = uri
    _check_whole(listed, where)
    return listed


def _check_cards(home: str, name: str) -> None:
    """Raise DataError where a file that the library reads of itself would take too much memory, or
    names what lies elsewhere.
    """
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    for card in ("README.md", ".huggingface.yaml", "dataset_infos.json"):
        with contextlib.suppress(FileNotFoundError), _file(f"{home}/{card}") as file:
            where, limit = f"{name}/{card}", LIMITS.json_header_bytes
            data = read_whole(file, where, max_bytes=limit)
            if card.endswith(".json"):
                load_json(data, where, lone_surrogates=True)
                continue
            text = read_text([data], where)
            block = REGEX_YAML_BLOCK.search(text)
            values = load_yaml(text if card.endswith(".yaml") else block[2] if block else "", where)
            configs = values.get("configs") if isinstance(values, dict) else None
            for named in _texts(configs):
                if "://" in named or "::" in named or named.startswith(("/", "~")) or ".." in named:
                    fault = f"it names {printable(named, 120)}, which is no file of the dataset"
                    raise refusal(DataError, where, fault, "do not use it")


def _texts(value: Any) -> Iterator[str]:
    """The texts in a value of YAML, also those deep in it."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _texts(list(value.values()))
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)


def _check_whole(names: Iterable[str], where: str) -> None:
    """Raise DataError where files 3-of-12 are fewer than 12: a download that was broken off."""
    found = [
        (_NUMBERED.sub("*", name), match[1]) for name in names if (match := _NUMBERED.search(name))
    ]
    for (pattern, number), count in collections.Counter(found).items():
        if int(number) != count:
            fault = f"{count:,} of the {int(number):,} files {printable(pattern, 120)} are there"
            raise refusal(DataError, where, fault, "fetch it again")


@contextlib.contextmanager
def _opened(name: str, uri: str) -> Iterator[IO[bytes]]:
    """A file of a dataset, by the name that it has in sentences."""
    try:
        with _file(uri) as file:
            yield file
    except (ClippoError, MemoryError):
        raise
    except Exception as error:  # of fsspec, the hub and the network
        fault = f"it cannot be read ({reason(error)})"
        raise refusal(DataError, name, fault, "check it, or fetch it again") from error


def _file(uri: str) -> AbstractContextManager[IO[bytes]]:
    """A file of the hub, read by ranges, or of its cache."""
    with optional_import():
        import fsspec

    system, path = fsspec.url_to_fs(uri)
    options = {"block_size": _BLOCK_BYTES, "cache_options": {"maxblocks": _BLOCKS}}
    file: AbstractContextManager[IO[bytes]] = system.open(
        path, "rb", cache_type="blockcache", **options
    )
    return file


def _where(source: SourceConfig) -> str:
    return source.path + (f" at {source.revision}" if source.revision else "")


@contextlib.contextmanager
def _words(
    source: SourceConfig,
    fault: str = "it cannot be read",
    remedy: str = "check the name, or fetch it again",
) -> Iterator[None]:
    """Turn what the library raises into a sentence."""
    try:
        yield
    except (ClippoError, MemoryError):
        raise
    except Exception as error:  # of datasets, its file systems, pyarrow and the network
        told = f"{fault} ({reason(error)})"
        raise refusal(DataError, _where(source), told, remedy) from error
