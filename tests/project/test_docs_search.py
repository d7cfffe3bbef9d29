"""docs/search.md, word for word: every block runs; the page itself is asked in tests/search."""

from __future__ import annotations

import re
import shlex
import tarfile
from pathlib import Path
from typing import Any

import pytest
from conftest import PROJECT
from drawn import draw, phrases, tiny_checkpoint

from clippo_core.cli.main import main

ELSEWHERE = {"page": "tests/search/test_page.py"}
"""What a block waits for -> the test that runs the same."""


def test_every_block_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(tiny_checkpoint(tmp_path)).rename("model.safetensors")
    for n, text in enumerate(phrases(12)):
        draw(text, Path("photos", f"{n}.png"))
    for name in ("dog.jpg", "cat.jpg"):
        draw(name, Path(name))
    Path("shards").mkdir()
    for part in range(2):
        with tarfile.open(f"shards/{part:05d}.tar", "w") as tar:
            tar.add(f"photos/{part}.png", "000.png")
    Path("list.txt").write_text("dog.jpg\nphotos/3.png\n")
    for name in ("captions.txt", "names.txt"):
        Path(name).write_text("\n".join(phrases(3)))
    page = (PROJECT / "docs" / "search.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(python|sh)(?: (\w+))?\n(.*?)^```$", page, re.M | re.S)
    assert len(blocks) == 6 and page.count("```") == 2 * len(blocks)
    names: dict[str, Any] = {}
    for language, needs, text in blocks:
        if needs:
            assert (PROJECT / ELSEWHERE[needs]).is_file()
        elif language == "python":
            exec(compile(text, "docs/search.md", "exec"), names)
        else:
            for line in text.splitlines():
                words = shlex.split(line)
                assert words[0] == "clippo" and main(words[1:]) == 0, (line, capsys.readouterr())
    assert names["names"] == ["dog.jpg", "cat.jpg"] and names["rows"].shape == (2, 32)
    shown = capsys.readouterr().out
    assert "photos.emb: 12 images, 32 numbers each" in shown and "recall@10 100.0 %" in shown
    assert "shards.emb: 2 images" in shown and "photos.html: 12 pictures" in shown
    for name in re.findall(r"^ {4,}(?:photos.emb/)?(\S+_0\.\S+|embedding\.json) ", page, re.M):
        folder = "captions.emb" if name.startswith("text_emb") else "photos.emb"
        assert name.startswith("text_metadata") or Path(folder, name).is_file(), name
