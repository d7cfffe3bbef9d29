"""Which code made a result: the sha256 of a module, every module of this project that it reaches by import, the assets and the lock.

    code_digest("clippo_core.train.loop") -> 64 hex digits

Imports are read from the source (ast), at any depth of a function too, so nothing is executed and a lazy import counts. It is
not a git commit: an edited working tree has its own digest, and an edited README changes none.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
PACKAGES = ("clippo_core", "tasks", "workflows")
NOT_THE_RESULT = ("tasks.settings",)
"""Modules that decide where code runs, not what comes out: a pod with more memory must not retrain."""


@functools.cache
def module_path(name: str) -> Path | None:
    """File of a module of this project, or None for any other module."""
    if name.split(".")[0] not in PACKAGES:
        return None
    path = PROJECT.joinpath(*name.split("."))
    if path.with_suffix(".py").is_file():
        return path.with_suffix(".py")
    return path / "__init__.py" if (path / "__init__.py").is_file() else None


@functools.cache
def imported_modules(name: str) -> frozenset[str]:
    """Names of this project's modules that the module `name` imports, directly, anywhere in its text."""
    path = module_path(name)
    if path is None:
        return frozenset()
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(filter(None, [*package.split(".")[: len(package.split(".")) - node.level + 1], base]))
            found.add(base)
            found.update(f"{base}.{alias.name}" for alias in node.names)
    found = {module for module in found if module_path(module)}
    # A package is executed on the way to its modules.
    parents = {".".join(parts[:n]) for parts in (m.split(".") for m in found) for n in range(1, len(parts))}
    return frozenset((found | {p for p in parents if module_path(p)}) - {name})


def reached_modules(name: str) -> set[str]:
    """`name` and every module of this project that it reaches by import."""
    seen: set[str] = set()
    todo = [name]
    while todo:
        module = todo.pop()
        if module not in seen and module not in NOT_THE_RESULT and module_path(module):
            seen.add(module)
            todo.extend(imported_modules(module))
    return seen


@functools.cache
def code_digest(*modules: str) -> str:
    """sha256 over `modules`, the project modules they reach, the assets and requirements.lock. Raises ValueError for no such module."""
    unknown = [module for module in modules if module_path(module) is None]
    if unknown:
        raise ValueError(f"{unknown[0]} is no module of this project ({', '.join(PACKAGES)}).")
    reached = set[str]().union(*map(reached_modules, modules))
    files = [path for path in map(module_path, reached) if path]
    files += [path for path in (PROJECT / "clippo_core" / "assets").glob("*") if path.is_file()]
    lock = PROJECT / "requirements.lock"
    total = hashlib.sha256()
    for path in sorted([*files, *([lock] if lock.is_file() else [])]):
        total.update(f"{path.relative_to(PROJECT).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()
