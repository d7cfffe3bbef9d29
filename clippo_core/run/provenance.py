"""Which code made a result: a sha256 of what computes, and of nothing that only surrounds it.

    code_digest("clippo_core.train.loop") -> 64 hex digits

It covers a module and every module of this project that it reaches by import, as syntax trees
without docstrings and comments; the fonts, which decide pixels; and the pinned versions of the
libraries that compute. Imports are read from the source, inside functions too, so nothing is
executed and a lazy import counts. An edited working tree has its own digest. A style sheet, a
linter's version, a comment, a licence or a published number changes none.

Fields and checks of a config are left out: a stage's digest holds the fields' values, and a refusal
has no result. Only where the code makes or decodes a config itself do its fields count, because
there their defaults decide.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = ("clippo_core", "tasks", "workflows")
HINTS = "clippo_core.config.hints"
NOT_THE_RESULT = ("tasks.settings", HINTS, "clippo_core.progress")
"""Modules that decide where code runs (a pod with more memory must not retrain), which values a
config refuses, and how a loop tells how far it is."""
ASSETS = "clippo_core/assets/unifont-*"
"""The fonts and what is known of them."""
LOCK = "requirements.lock"
COMPUTING = frozenset(
    {
        "deepspeed",
        "numpy",
        "pillow",
        "safetensors",
        "scikit-learn",
        "scipy",
        "sentencepiece",
        "timm",
        "torch",
        "torchvision",
    }
)
"""Libraries whose pinned version can change a digit of a result; the others carry, show or
check."""


@functools.cache
def module_path(name: str, project: Path = PROJECT) -> Path | None:
    """File of a module of the project in the folder `project`, or None for any other module."""
    if name.split(".")[0] not in PACKAGES:
        return None
    path = project.joinpath(*name.split("."))
    if path.with_suffix(".py").is_file():
        return path.with_suffix(".py")
    return path / "__init__.py" if (path / "__init__.py").is_file() else None


@functools.cache
def imported_modules(name: str, project: Path = PROJECT) -> frozenset[str]:
    """The project's modules that the module `name` imports, directly, anywhere in its text."""
    path = module_path(name, project)
    if path is None:
        return frozenset()
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for level, base, names in _read(path).imports:
        if level:
            parents = package.split(".")[: len(package.split(".")) - level + 1]
            base = ".".join(filter(None, [*parents, base]))
        found.add(base)
        found.update(f"{base}.{name}" for name in names)
    found = {module for module in found if module_path(module, project)}
    # A package is executed on the way to its modules.
    splits = [module.split(".") for module in found]
    parents_of = {".".join(parts[:n]) for parts in splits for n in range(1, len(parts))}
    return frozenset((found | {p for p in parents_of if module_path(p, project)}) - {name})


def reached_modules(name: str, project: Path = PROJECT) -> set[str]:
    """`name` and every module of the project that it reaches by import."""
    seen: set[str] = set()
    todo = [name]
    while todo:
        module = todo.pop()
        if module not in seen and module not in NOT_THE_RESULT and module_path(module, project):
            seen.add(module)
            todo.extend(imported_modules(module, project))
    return seen


@functools.cache
def code_digest(*modules: str, project: Path = PROJECT) -> str:
    """sha256 over what computes in `modules` and the modules they reach: their syntax trees, the
    fonts, the pins. Raises ValueError where there is no such module."""
    for module in modules:
        if module_path(module, project) is None:
            known = ", ".join(PACKAGES)
            raise ValueError(f"{module} is no module of this project ({known}).")
    reached = set[str]().union(*(reached_modules(module, project) for module in modules))
    paths = {path for module in reached if (path := module_path(module, project))}
    made = _configs_made(paths)
    parts = {path: _code(path, made & _configs_in(path)) for path in paths}
    parts |= {path: _sha256(path.read_bytes()) for path in project.glob(ASSETS)}
    total = hashlib.sha256("".join(_pins(project)).encode())
    for path in sorted(parts):
        total.update(f"{path.relative_to(project).as_posix()} {parts[path]}\n".encode())
    return total.hexdigest()


@functools.cache
def program_digest(project: Path = PROJECT) -> str:
    """sha256 over every file that an image holds of this project: whether two places hold the same
    program, to the last comment. What computes a result alike is `code_digest`'s question.
    """
    files = [project / LOCK]
    for package in PACKAGES:
        files += [path for path in (project / package).rglob("*") if path.is_file()]
    total = hashlib.sha256()
    for path in sorted(files):
        if "__pycache__" not in path.parts:
            name = path.relative_to(project).as_posix()
            total.update(f"{name} {_sha256(path.read_bytes())}\n".encode())
    return total.hexdigest()


class _Read(NamedTuple):
    """What is kept of a file: its syntax tree would be most of a process's objects, and the garbage
    collector would walk them all again and again.
    """

    imports: tuple[tuple[int, str, tuple[str, ...]], ...]
    """Dots in front, module, names."""
    dumped: str


@functools.cache
def _read(path: Path) -> _Read:
    tree = _tree(path)
    imports: list[tuple[int, str, tuple[str, ...]]] = []
    for node in _blocks(tree):
        if isinstance(node, ast.Import):
            imports += [(0, alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = tuple(alias.name for alias in node.names)
            imports.append((node.level, node.module or "", names))
    return _Read(tuple(imports), ast.dump(tree))


def _tree(path: Path) -> ast.Module:
    """A file's syntax tree without docstrings, those under fields included."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in _blocks(tree):
        for block in ("body", "orelse", "finalbody"):
            statements = getattr(node, block, None)
            if isinstance(statements, list):
                setattr(node, block, [line for line in statements if not _is_text(line)])
    return tree


def _blocks(node: ast.AST) -> Iterator[ast.AST]:
    """`node` and every statement, handler and case below it. Expressions are left out: they hold
    no statements, and are most of a tree.
    """
    yield node
    for block in ("body", "orelse", "finalbody", "handlers", "cases"):
        below = getattr(node, block, None)
        for statement in below if isinstance(below, list) else ():
            yield from _blocks(statement)


@functools.cache
def _code(path: Path, made: frozenset[str]) -> str:
    """sha256 of what a file says to the computer. Of its configs, those in `made` have fields."""
    configs = _configs_in(path)
    if not configs:
        return _sha256(_read(path).dumped.encode())
    said = []
    for line in _tree(path).body:
        if isinstance(line, ast.ClassDef) and line.name in configs:
            skipped = ["check"] if line.name in made else ["check", "field"]
            said += [ast.dump(inner) for inner in line.body if _role(inner) not in skipped]
        elif not isinstance(line, ast.ImportFrom) or line.module != HINTS:
            said.append(ast.dump(line))
    return _sha256("\n".join(said).encode())


def _role(line: ast.stmt) -> str:
    """What a line of a config's class is: a field, a check, or code."""
    if isinstance(line, ast.FunctionDef) and line.name.startswith("check_"):
        return "check"
    return "field" if isinstance(line, ast.AnnAssign) else "code"


@functools.cache
def _configs_in(path: Path) -> frozenset[str]:
    """Names of the configs that a file declares."""
    return frozenset(
        re.findall(r"ClassDef\(name='(\w+Config)', bases=\[Name\(id='Checked'", _read(path).dumped)
    )


@functools.cache
def _configs_named(path: Path) -> frozenset[str]:
    """Names of the configs that a file makes or decodes: XConfig(…), XConfig.from_json(…),
    from_dict(XConfig, …)."""
    call = r"(?:func=(?:Attribute\(value=)?|args=\[)Name\(id='(\w+Config)'"
    return frozenset(re.findall(call, _read(path).dumped))


def _configs_made(paths: set[Path]) -> frozenset[str]:
    """Names of the configs that these files make or decode, and of those that may be defaults in
    them: whatever a file that declares one of them makes."""
    found = {path for path in paths if not _configs_in(path)}
    while True:
        made = frozenset[str]().union(*map(_configs_named, found))
        more = {path for path in paths - found if made & _configs_in(path)}
        if not more:
            return made
        found |= more


def _is_text(statement: ast.AST) -> bool:
    """Whether a statement is only a text, which does nothing."""
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _pins(project: Path) -> list[str]:
    """The lock's lines of libraries that compute; none where there is no lock."""
    lock = project / LOCK
    lines = lock.read_text(encoding="utf-8").splitlines() if lock.is_file() else []
    pins = [re.sub(r"\s+#.*", "", line).strip() for line in lines]
    return sorted(f"{pin}\n" for pin in pins if re.split("[=\\[ ;@]", pin)[0] in COMPUTING)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
