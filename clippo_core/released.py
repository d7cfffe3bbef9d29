"""The six checkpoints that CLIPPO's authors published, by name: what each was trained on, and how
to get it.

    fetch_released("clippo_b16_yfcc100m")  ──▶  ~/.cache/clippo/released/clippo_b16_yfcc100m.npz
                                                (540 MiB, resumed where it broke off)

They lie in a public bucket, read by https without an account. No sha256 of them is known: the first
download is checked against the bucket's own MD5 and size, and the sha256 is recorded beside the
file and checked from then on. The arrays are read by `models/convert.py`. Source: big_vision
configs/proj/clippo/README.md and clippo_colab.ipynb.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from clippo_core.errors import ConfigError, StorageError
from clippo_core.progress import Progress, counted
from clippo_core.published import Published, published_of
from clippo_core.storage import sha256_file
from clippo_core.untrusted.json import field, load_json
from clippo_core.untrusted.names import refusal

BASE_URL = "https://storage.googleapis.com/big_vision/clippo"
"""Where the authors published them."""
TIMEOUT_SECONDS = 30.0
"""Silence after which a connection is given up, to be taken up again."""
NOTE_BYTES = 65_536
"""Longest note beside a file that is read; ours has 300 bytes."""
ATTEMPTS = 5
"""Connections in a row that may bring nothing."""


@dataclass(frozen=True)
class Released:
    """One published checkpoint: ViT-B/16, 224 px, rendered with Unifont 9.0.06."""

    name: str
    data: str
    """What it was trained on."""
    steps: int
    row: tuple[str, str]
    """Model and data of its row in the authors' table, as `published.json` names them."""

    @property
    def url(self) -> str:
        """Its address."""
        return f"{BASE_URL}/{self.name}.npz"

    @property
    def results(self) -> list[Published]:
        """What the authors published about it."""
        return published_of(*self.row)


_FROM_SCRATCH, _FROM_I21K = "CLIPPO B/16", "CLIPPO B/16, I21k init"
RELEASED: dict[str, Released] = {
    name: Released(name, data, steps, row)
    for name, data, steps, row in (
        ("clippo_b16_yfcc100m", "YFCC-100M", 250_000, (_FROM_SCRATCH, "YFCC-100M")),
        (
            "clippo_b16_yfcc100m_i21k_init",
            "YFCC-100M, from ImageNet-21k weights",
            250_000,
            (_FROM_I21K, "YFCC-100M"),
        ),
        (
            "clippo_b16_yfcc100m_i21k_init_25c4",
            "75 % YFCC-100M and 25 % C4, from ImageNet-21k weights",
            333_000,
            (_FROM_I21K, "YFCC-100M + 25% C4"),
        ),
        (
            "clippo_b16_yfcc100m_i21k_init_50c4",
            "half YFCC-100M, half C4, from ImageNet-21k weights",
            500_000,
            (_FROM_I21K, "YFCC-100M + 50% C4"),
        ),
        (
            "clippo_b16_yfcc100m_i21k_init_75c4",
            "25 % YFCC-100M and 75 % C4, from ImageNet-21k weights",
            500_000,
            (_FROM_I21K, "YFCC-100M + 75% C4"),
        ),
        ("clippo_b16_100c4", "C4 alone", 250_000, (_FROM_SCRATCH, "C4")),
    )
}
"""Released checkpoints by name."""


def fetch_released(
    name: str,
    cache_dir: str | Path | None = None,
    *,
    base_url: str = BASE_URL,
    progress: bool = True,
) -> Path:
    """The local file of a released checkpoint, downloaded where it is not there yet.

    cache_dir: default ~/.cache/clippo/released. Raises ConfigError for another name, StorageError
    where the network is not to be had.
    """
    if name not in RELEASED:
        raise ConfigError(f"{name} is no released checkpoint; there are {', '.join(RELEASED)}.")
    folder = Path(
        cache_dir
        or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "clippo" / "released"
    )
    path = folder / f"{name}.npz"
    note = path.with_suffix(".json")
    if path.is_file():
        _check_noted(path, note)
        return path
    url = f"{base_url}/{name}.npz"
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    try:
        headers = _download(url, partial, progress)
    except (OSError, http.client.HTTPException) as error:
        raise StorageError(
            f"{name} is not on this machine, and {url} could not be read ({error}). Where there is"
            f" a network, run\n    curl -C - -o {name}.npz {url}\nand copy the file to {path}, or"
            " give its own path instead of the name. What has arrived so far is kept."
        ) from error
    _check_md5(partial, headers)
    facts = {
        "url": url,
        "bytes": partial.stat().st_size,
        "sha256": sha256_file(partial),
        "etag": headers.get("ETag", ""),
    }
    note.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
    return path


def _check_noted(path: Path, note: Path) -> None:
    """Compare a file with what was noted at its download; one that was copied here by hand has no
    note and gets one.
    """
    sha256 = sha256_file(path)
    if note.is_file():
        remedy = f"delete it and {path.name}, and load again"
        facts = load_json(
            note.read_bytes(), str(note), error=StorageError, remedy=remedy, max_bytes=NOTE_BYTES
        )
        noted = field(facts, "sha256", str, str(note), error=StorageError)
        if noted != sha256:
            fault = f"it is not what was downloaded: sha256 {sha256}, noted {noted}"
            raise refusal(StorageError, str(path), fault, f"delete it and {note.name}, load again")
    else:
        facts = {
            "bytes": path.stat().st_size,
            "sha256": sha256,
            "note": "copied here, not downloaded",
        }
        note.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def _download(url: str, partial: Path, progress: bool) -> dict[str, str]:
    """Bring `url` into `partial`, going on where it stands, and return the response's headers.
    Raises OSError.
    """
    silent = 0
    mark = partial.with_suffix(".etag")
    with counted(partial.stem, unit="B", shown=progress) as bar:
        while True:
            before = partial.stat().st_size if partial.is_file() and mark.is_file() else 0
            try:
                headers, total = _transfer(url, partial, mark, before, bar)
                if partial.stat().st_size == total:
                    mark.unlink(missing_ok=True)
                    return headers
            except urllib.error.HTTPError as error:
                if error.code < 500:
                    raise
            except (OSError, http.client.HTTPException):
                if silent + 1 == ATTEMPTS:
                    raise
            arrived = partial.stat().st_size if partial.is_file() else 0
            silent = 0 if arrived > before else silent + 1
            if silent == ATTEMPTS:
                raise OSError(f"{ATTEMPTS} connections brought nothing")
            time.sleep(min(2.0**silent, 10.0) - 1)


def _transfer(
    url: str, partial: Path, mark: Path, start: int, bar: Progress
) -> tuple[dict[str, str], int]:
    """One connection, from byte `start` on if the file is still the same one. Returns headers and
    the whole file's size.
    """
    request = urllib.request.Request(url)
    if start:
        request.add_header("Range", f"bytes={start}-")
        etag = mark.read_bytes()[:200].decode("ascii", "replace")
        request.add_header("If-Range", etag if etag.isprintable() else "")
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
        continued = response.status == 206
        start = start if continued else 0
        length = response.headers.get("Content-Length", "")
        if not re.fullmatch("[0-9]{1,15}", length):
            raise OSError("the server does not say how long the file is")
        total = start + int(length)
        mark.write_text(response.headers.get("ETag", ""), encoding="utf-8")
        bar.restart(start, total)
        with open(partial, "ab" if continued else "wb") as file:
            while chunk := response.read(1 << 20):
                file.write(chunk)
                bar.update(len(chunk))
        return dict(response.headers), total


def _check_md5(partial: Path, headers: dict[str, str]) -> None:
    """Compare with the MD5 that the bucket gives, where it gives one."""
    expected = next(
        (
            part.strip()[4:]
            for part in headers.get("x-goog-hash", "").split(",")
            if part.strip().startswith("md5=")
        ),
        "",
    )
    if not expected:
        return
    with open(partial, "rb") as file:
        found = base64.b64encode(
            hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).digest()
        ).decode()
    if found != expected:
        partial.unlink()
        raise StorageError(
            f"{partial.stem} arrived damaged: MD5 {found}, the bucket says {expected}. It was"
            " deleted; load again."
        )
