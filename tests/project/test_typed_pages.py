"""README's "Your own data" and the tutorial, typed line by line by somebody who has a folder of
photos with captions and nothing else; only the training is made shorter, by an edit of run.json.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import PROJECT
from PIL import Image

README, TUTORIAL = PROJECT / "README.md", PROJECT / "docs/own-data.md"


def typed(page: Path, heading: str = "") -> list[str]:
    """The command lines of a page, or of the part below a heading of it."""
    text = page.read_text(encoding="utf-8")
    if heading:
        text = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^    ((?:\.venv/bin/|printf ).*)$", text, re.M)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout after `make setup`, with a folder of photos and some that are held out."""
    root = tmp_path_factory.mktemp("checkout")
    for name in ("clippo_core", "tasks", "workflows"):
        (root / name).symlink_to(PROJECT / name)
    binaries = root / ".venv/bin"
    binaries.mkdir(parents=True)
    (binaries / "pyflyte").symlink_to(Path(sys.executable).with_name("pyflyte"))
    # What the installation writes for [project.scripts].
    script = (
        f"#!{sys.executable}\nfrom clippo_core.cli.main import main\nraise SystemExit(main())\n"
    )
    (binaries / "clippo").write_text(script)
    (binaries / "clippo").chmod(0o755)
    (root / "photos").mkdir()
    (root / "held").mkdir()
    (root / "home").mkdir()
    entries = []
    for n in range(32):
        pixels = np.random.default_rng(n).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        picture = Image.fromarray(pixels).resize((96, 80), Image.Resampling.NEAREST)
        if n < 24:
            picture.save(root / f"photos/{n:05d}.jpg")
            (root / f"photos/{n:05d}.txt").write_text(f"photo number {n}\n")
        else:
            picture.save(root / f"held/held{n:05d}.jpg")
            sentences = [{"raw": f"held photo {n}"}]
            entries.append(
                {"filename": f"held{n:05d}.jpg", "split": "test", "sentences": sentences}
            )
    (root / "held/dataset.json").write_text(json.dumps({"images": entries}))
    return root


def shell(line: str, checkout: Path) -> str:
    """What a line prints, typed in the checkout. Fails where it does."""
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        cwd=checkout,
        env=os.environ | {"HOME": str(checkout / "home"), "PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def shorten(checkout: Path) -> None:
    """Edit run.json, as the pages invite to: a training of 12 steps."""
    run = json.loads((checkout / "run.json").read_text())
    run["train"]["steps"] = 12
    run["optim"] |= {"warmup_steps": 2, "timescale_steps": 2, "cooldown_steps": 2}
    (checkout / "run.json").write_text(json.dumps(run))


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_own_data_as_the_readme_says(checkout: Path) -> None:
    *lines, alone = typed(README, "Your own data")
    assert [line.split()[0].rpartition("/")[2] for line in lines] == [
        "clippo",
        "clippo",
        "pyflyte",
        "printf",
    ]
    said = []
    for line in lines:
        said.append(shell(line, checkout))
        shorten(checkout)
    assert "photos: folder, 24 photos with captions" in said[0]
    assert "no fault found" in said[1] and "report.html" in said[2] and "2 texts" in said[3]
    (run,) = [path.parent for path in (checkout / "runs").glob("mine-*/checkpoints")]
    assert (run / "report.html").is_file()
    # A benchmark of one's own, for the command that measures a finished model alone.
    held = {"annotations": "held/dataset.json", "images": "held", "expect_images": 8}
    (checkout / "evaluate.json").write_text(json.dumps({"retrieval": [held]}))
    assert "runs/RUN " in alone
    assert "i2t_recall@1" in shell(alone.replace("RUN", run.name), checkout)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_tutorial(checkout: Path) -> None:
    lines = typed(TUTORIAL)
    assert len(lines) == 8
    text = ""
    for line in lines:
        text += shell(line, checkout)
        shorten(checkout)
    assert "retrieval (dataset): its first 8 pictures open" in text and "no fault found" in text
    assert "i2t_recall@1" in text and "report.html" in text
    assert (checkout / "photos.emb").is_dir() and (checkout / "photos.html").is_file()


def test_the_pages_type_what_there_is() -> None:
    """Every `clippo COMMAND` on a page is a command."""
    from clippo_core.cli.main import parser

    commands = parser()._subparsers
    assert commands is not None
    names = set(next(iter(commands._group_actions)).choices or ())
    for page in [*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md")]:
        for name in re.findall(r"(?:^    |`|bin/|\| )clippo ([a-z]+)", page.read_text(), re.M):
            assert name in names, f"{page.name}: clippo {name}"
