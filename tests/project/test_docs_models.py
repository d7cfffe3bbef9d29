"""docs/models.md, word for word: every block runs, but those that say what they need besides."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import PROJECT
from drawn import phrases, write_karpathy
from forms import drawn_tower, point_to, save_run
from PIL import Image

from clippo_core.cli.main import main
from clippo_core.config import RenderConfig
from clippo_core.embedder import Clippo

ELSEWHERE = {
    "network": "tests/models/test_hub.py",
    "onnx": "tests/adapters/test_suites.py",
    "mteb": "tests/adapters/test_suites.py",
}
"""What a block needs -> the test that runs the same."""


def test_every_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    point_to("runs/promoted-small.json", save_run(drawn_tower(), "runs/small-1a2b3c"))
    Clippo(drawn_tower(), RenderConfig(), device="cpu").save("model.safetensors")
    for seed, name in enumerate(("dog.jpg", "cat.jpg")):
        noise = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(name)
    files = write_karpathy(tmp_path / "benchmark", phrases(8), [[text] for text in phrases(8)])
    Path("evaluate.json").write_text(json.dumps({"retrieval": [{**files, "dataset": "drawn"}]}))
    page = (PROJECT / "docs" / "models.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(python|sh)(?: (\w+))?\n(.*?)^```$", page, re.M | re.S)
    assert len(blocks) >= 10 and page.count("```") == 2 * len(blocks)
    names: dict[str, Any] = {}
    for language, needs, text in blocks:
        if needs:
            assert (PROJECT / ELSEWHERE[needs]).is_file()
        elif language == "python":
            exec(compile(text, "docs/models.md", "exec"), names)
        else:
            for line in text.splitlines():
                words = shlex.split(line)
                assert words[0] == "clippo" and main(words[1:]) == 0, line
    np.testing.assert_allclose(names["image_features"].numpy(), names["images"], atol=1e-6)
    np.testing.assert_allclose(names["text_features"].numpy(), names["texts"], atol=1e-6)
    assert names["features"].shape == (3, 32) and Path("for-the-hub/README.md").is_file()
