"""Released checkpoints: their table, and a download that is resumed, verified and recorded, against
a real server on this machine.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import threading

import numpy as np
import pytest

from clippo_core import models, released
from clippo_core.config import ModelConfig
from clippo_core.embedder import Clippo
from clippo_core.errors import ConfigError, StorageError
from clippo_core.released import RELEASED, fetch_released

NAME = "clippo_b16_100c4"


class Bucket(http.server.BaseHTTPRequestHandler):
    """Serves one file with ranges; `cut_after` bytes of each answer, then the line goes dead."""

    content = b""
    etag = '"1"'
    cut_after = 1 << 40
    md5 = True
    asked: list[str] = []

    def do_GET(self):
        cls = type(self)
        wanted = self.headers.get("Range", "")
        cls.asked.append(wanted)
        if not self.path.endswith(f"/{NAME}.npz"):
            self.send_error(404)
            return
        start = int(wanted[6:-1]) if wanted and self.headers.get("If-Range") == cls.etag else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(cls.content) - start))
        self.send_header("ETag", cls.etag)
        if cls.md5:
            digest = base64.b64encode(hashlib.md5(cls.content).digest()).decode()
            self.send_header("x-goog-hash", f"crc32c=AAAA,md5={digest}")
        self.end_headers()
        self.wfile.write(cls.content[start : start + cls.cut_after])

    def log_message(self, *args):
        pass


@pytest.fixture
def bucket(monkeypatch):
    handler = type(
        "OneBucket", (Bucket,), {"asked": [], "content": np.random.default_rng(0).bytes(3_000_000)}
    )
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(released.time, "sleep", lambda seconds: None)
    yield handler, f"http://127.0.0.1:{server.server_port}/big_vision/clippo"
    server.shutdown()
    server.server_close()


def test_the_table_is_complete():
    assert len(RELEASED) == 6
    for name, one in RELEASED.items():
        assert one.url == f"https://storage.googleapis.com/big_vision/clippo/{name}.npz"
        assert one.data and one.steps >= 250_000
        assert {
            number.metric for number in one.results if number.source.startswith("big_vision")
        } >= {"glue/average"}
    results = {number.metric: number.value for number in RELEASED["clippo_b16_yfcc100m"].results}
    assert results["imagenet/zero_shot_top1"] == 43.4 and results["coco/t2i_recall@1"] == 19.7


def test_a_broken_line_is_taken_up_where_it_broke(bucket, tmp_path):
    handler, url = bucket
    handler.cut_after = 1_200_000
    path = fetch_released(NAME, tmp_path, base_url=url, progress=False)
    assert path.read_bytes() == handler.content
    assert handler.asked == ["", "bytes=1200000-", "bytes=2400000-"]
    note = json.loads(path.with_suffix(".json").read_text())
    assert (
        note["sha256"] == hashlib.sha256(handler.content).hexdigest() and note["bytes"] == 3_000_000
    )
    handler.asked.clear()
    assert (
        fetch_released(NAME, tmp_path, base_url=url, progress=False) == path and handler.asked == []
    )
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".json", ".npz"]


def test_a_file_that_changed_meanwhile_starts_anew(bucket, tmp_path):
    handler, url = bucket
    (tmp_path / f"{NAME}.partial").write_bytes(b"x" * 1000)
    (tmp_path / f"{NAME}.etag").write_text('"0"')
    assert (
        fetch_released(NAME, tmp_path, base_url=url, progress=False).read_bytes() == handler.content
    )
    assert handler.asked == ["bytes=1000-"]


def test_a_dead_line_gives_up_and_keeps_what_came(bucket, tmp_path):
    handler, url = bucket
    handler.cut_after = 0
    with pytest.raises(StorageError, match="5 connections brought nothing"):
        fetch_released(NAME, tmp_path, base_url=url, progress=False)
    handler.cut_after = 1 << 40
    (tmp_path / f"{NAME}.partial").write_bytes(handler.content[:500])
    (tmp_path / f"{NAME}.etag").write_text(handler.etag)
    handler.asked.clear()
    fetch_released(NAME, tmp_path, base_url=url, progress=False)
    assert handler.asked == ["bytes=500-"]


def test_damage_is_found_at_once_and_later(bucket, tmp_path):
    handler, url = bucket
    (tmp_path / f"{NAME}.partial").write_bytes(b"x" * 500)
    (tmp_path / f"{NAME}.etag").write_text(handler.etag)
    with pytest.raises(StorageError, match="arrived damaged"):
        fetch_released(NAME, tmp_path, base_url=url, progress=False)
    path = fetch_released(NAME, tmp_path, base_url=url, progress=False)
    path.write_bytes(b"y" + path.read_bytes()[1:])
    with pytest.raises(StorageError, match="not what was downloaded"):
        fetch_released(NAME, tmp_path, base_url=url, progress=False)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "[]", '{"sha256": 7}', "{}", "\xff"])
def test_a_damaged_note_is_named(bucket, tmp_path, text):
    path = fetch_released(NAME, tmp_path, base_url=bucket[1], progress=False)
    path.with_suffix(".json").write_text(text, encoding="latin-1")
    with pytest.raises(StorageError, match=rf"{NAME}\.json: "):
        fetch_released(NAME, tmp_path, base_url=bucket[1], progress=False)


@pytest.mark.parametrize("mark", [b"\xff\n\r\nX: y", b"", b"\0"])
def test_a_damaged_mark_starts_anew(bucket, tmp_path, mark):
    (tmp_path / f"{NAME}.partial").write_bytes(b"x" * 1000)
    (tmp_path / f"{NAME}.etag").write_bytes(mark)
    found = fetch_released(NAME, tmp_path, base_url=bucket[1], progress=False)
    assert found.read_bytes() == bucket[0].content


def test_without_a_network_the_words_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(released.time, "sleep", lambda seconds: None)
    with pytest.raises(StorageError) as error:
        fetch_released(NAME, tmp_path, base_url="http://127.0.0.1:1/big_vision", progress=False)
    assert "curl -C - -o clippo_b16_100c4.npz" in str(error.value) and str(
        tmp_path / f"{NAME}.npz"
    ) in str(error.value)
    with pytest.raises(ConfigError, match="clippo_b16_yfcc100m, "):
        fetch_released("clippo_l16", tmp_path)


def test_loading_by_name_takes_a_file_copied_by_hand(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "clippo" / "released"
    folder.mkdir(parents=True)
    tower = models.build_tower(
        ModelConfig(width=32, depth=1, num_heads=2, mlp_dim=64, embed_dim=16), 32
    )
    models.save_big_vision(tower, folder / f"{NAME}.npz")
    model = Clippo.load(NAME, device="cpu")
    assert model.image_px == 32 and model.renderer.warn_font
    assert (
        json.loads((folder / f"{NAME}.json").read_text())["note"] == "copied here, not downloaded"
    )
