"""docs/api.md from the docstrings: every public name of the modules that people import, with its
signature and its first sentence.

    python tools/api_index.py            write docs/api.md
    python tools/api_index.py --check    exit 1 where it is not what the docstrings say

The sources are parsed, not imported. A test runs the check.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
PAGE = PROJECT / "docs" / "api.md"

MODULES = {
    "Use a model": ("embedder", "opening", "exported", "released", "published"),
    "Hand a model on": (
        "hub",
        "card",
        "run.publishing",
        "neighbours.graphs",
        "neighbours.timm_folder",
        "adapters.clip_benchmark",
        "adapters.mteb",
    ),
    "Render text": ("rendering.renderer", "rendering.font", "rendering.census"),
    "Describe a run": (
        "config.run",
        "config.data",
        "config.model",
        "config.train",
        "config.evaluate",
        "config.gate",
        "config.presets",
        "config.small",
    ),
    "Read and order data": ("data.pairs", "data.sources.kinds", "data.order", "data.loader"),
    "Train": ("losses", "optim.adafactor", "optim.schedule", "engine.interface"),
    "Evaluate": (
        "evaluate.registry",
        "evaluate.harness",
        "evaluate.ranking",
        "evaluate.metrics",
        "evaluate.bootstrap",
        "evaluate.paired",
        "evaluate.results",
        "report.compare",
    ),
    "Runs, verdicts and storage": (
        "run.records",
        "run.history",
        "run.promotion",
        "run.journal",
        "storage",
        "errors",
    ),
}
"""Heading -> modules below clippo_core."""

Definition = ast.FunctionDef | ast.ClassDef


def main() -> int:
    """Write the page, or compare it."""
    text = page()
    if "--check" in sys.argv[1:]:
        if PAGE.read_text(encoding="utf-8") == text:
            return 0
        print("docs/api.md is not what the docstrings say; run: python tools/api_index.py")
        return 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


def page() -> str:
    """The whole page."""
    lines = [
        "# Public names",
        "",
        "Made by `tools/api_index.py` from the docstrings, which say more: shapes, units, errors.",
    ]
    for heading, modules in MODULES.items():
        lines += ["", f"## {heading}"]
        for module in modules:
            lines += ["", f"### `clippo_core.{module}`", "", *_module(module)]
    return "\n".join(lines) + "\n"


def _module(name: str) -> Iterator[str]:
    folder = PROJECT / "clippo_core" / name.replace(".", "/")
    path = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    yield _sentence(tree)
    yield ""
    for node in tree.body:
        if not isinstance(node, Definition) or node.name.startswith("_"):
            continue
        yield f"- `{_signature(node)}`: {_sentence(node)}"
        if isinstance(node, ast.ClassDef):
            for one in node.body:
                if isinstance(one, ast.FunctionDef) and not one.name.startswith("_"):
                    yield f"  - `{_signature(one)}`: {_sentence(one)}"


def _signature(node: Definition) -> str:
    if isinstance(node, ast.ClassDef):
        return node.name
    names = {getattr(decorator, "id", "") for decorator in node.decorator_list}
    if "property" in names:
        return node.name
    arguments = ast.unparse(node.args)
    arguments = re.sub(r"^(self|cls)(, )?", "", arguments)
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{node.name}({arguments}){returns}"


def _sentence(node: ast.Module | Definition) -> str:
    """The docstring's first sentence, or its first line where that ends in a colon."""
    words = " ".join((ast.get_docstring(node) or "").partition("\n\n")[0].split())
    return re.split(r"(?<=[.;:])(?<!e\.g\.)\s", words, maxsplit=1)[0].rstrip(":;")


if __name__ == "__main__":
    sys.exit(main())
