"""What the pages name is there: files, headings, make targets, workflows; and the index of public
names is what the docstrings say.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md"), *PROJECT.glob("benchmarks/*.md")]
)


def anchors(page: Path) -> set[str]:
    """The headings of a page as a code host links to them."""
    found = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", line.lower()).strip().replace(" ", "-") for line in found}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(linked), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_command_is_there(page: Path) -> None:
    """Make targets, workflows and files that commands name."""
    targets = set(re.findall(r"^([a-z][a-z-]*)[a-z -]*:", (PROJECT / "Makefile").read_text(), re.M))
    workflows = "".join(path.read_text() for path in (PROJECT / "workflows").glob("*.py"))
    commands = re.findall(r"^    (\S.*)$|`([^`\n]+)`", page.read_text(encoding="utf-8"), re.M)
    for command in (indented or quoted for indented, quoted in commands):
        if make := re.fullmatch(r"(?:[A-Z_]+=\S+ )*make ([a-z][a-z-]*)( .*)?", command):
            assert make[1] in targets, f"{page.name}: {command}"
        if run := re.search(r"pyflyte run (?:--\S+ )*workflows ([a-z_]+)", command):
            assert f"def {run[1]}(" in workflows, f"{page.name}: {command}"
        if script := re.search(r"python ((?:tools|benchmarks|tests)/\S+\.py)", command):
            assert (PROJECT / script[1]).is_file(), f"{page.name}: {command}"


def test_the_index_of_public_names_is_made_from_the_docstrings() -> None:
    command = [sys.executable, "tools/api_index.py", "--check"]
    checked = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
