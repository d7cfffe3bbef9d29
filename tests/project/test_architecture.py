"""The house's rules as assertions: who may import whom, no circle, light workflows, files and
README as promised.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from conftest import PROJECT

from clippo_core.run.provenance import code_digest, imported_modules, module_path, reached_modules

FILES = sorted(
    path
    for folder in ("clippo_core", "tasks", "workflows")
    for path in (PROJECT / folder).rglob("*.py")
)
LAYERS = [
    ["errors", "progress"], ["extras"], ["untrusted"], ["config", "published"],
    ["run.records", "run.provenance"], ["evaluate.registry"], ["storage"],
    ["run.journal", "run.folder"], ["run.history", "run.judgement", "run.planned"],
    ["rendering"], ["data"],
    ["models"], ["losses", "optim"], ["engine"], ["released", "exported", "hub", "card", "inputs"],
    ["opening"], ["embedder"], ["adapters", "neighbours"],
    ["train", "measure", "evaluate"], ["analysis", "report"], ["search"],
    ["train.__main__"], ["run.publishing"],
    ["run.contents", "run.places", "run.kept", "run.resolving"], ["run.evaluation_plans"],
    ["run.planning", "run.promotion", "run.retention", "run.proposal", "run.inspection"],
    ["cli.options"], ["cli"], ["cli.main"], ["__main__"],
]  # fmt: skip
"""Low to high; what stands in one list does not import one another;
the longest name that a module is, or lies in, counts."""


def module_name(path: Path) -> str:
    """Dotted name of a file of the project."""
    parts = list(path.relative_to(PROJECT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> set[str]:
    """First words of all imports in a file, at any depth."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def importers(package: str) -> set[str]:
    """Files, relative to the project, that import `package`."""
    return {path.relative_to(PROJECT).as_posix() for path in FILES if package in imports_of(path)}


def test_core_knows_no_orchestrator() -> None:
    for package in ("flytekit", "flytekitplugins", "tasks", "workflows"):
        assert not {file for file in importers(package) if file.startswith("clippo_core")}, package


@pytest.mark.parametrize(
    ("package", "home"),
    [
        ("deepspeed", "clippo_core/engine/zero.py"),
        ("boto3", "clippo_core/storage/__init__.py"),
        ("great_expectations", "clippo_core/data/validate/expectations.py"),
        ("duckdb", "clippo_core/data/validate/database.py"),
    ],
)
def test_heavy_libraries_have_one_home(package: str, home: str) -> None:
    assert importers(package) == {home}


def test_bytes_from_outside_are_decoded_in_one_room() -> None:
    """What turns foreign bytes into values is called in clippo_core/untrusted alone."""
    decoders = {
        "json.loads", "json.load", "np.load", "np.fromfile", "numpy.load", "tarfile.open",
        "tarfile.TarFile", "zipfile.ZipFile", "gzip.open", "gzip.decompress", "zlib.decompress",
        "Image.open", "pickle.load", "pickle.loads", "torch.load", "safe_open", "load_file",
        "yaml.load", "yaml.safe_load", "eval", "exec", "ast.literal_eval",
    }  # fmt: skip
    found = {
        (path.relative_to(PROJECT).as_posix(), ast.unparse(call.func))
        for path in FILES
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and ast.unparse(call.func) in decoders
    }
    elsewhere = {pair for pair in found if not pair[0].startswith("clippo_core/untrusted/")}
    assert len(found - elsewhere) >= 3, "the names of the decoders have changed"
    assert elsewhere == {
        ("clippo_core/data/write.py", "tarfile.open"),  # it writes a shard
        ("clippo_core/published.py", "json.loads"),  # the package's own table
    }
    # Tables that one stage of data/ leaves for the next may be read by whole columns there.
    tables = re.compile(r"\b(read_table|ParquetFile|read_parquet|read_metadata|read_schema)\(")
    rooms = ("clippo_core/untrusted/", "clippo_core/data/")
    readers = {
        path.relative_to(PROJECT).as_posix() for path in FILES if tables.search(path.read_text())
    }
    assert "clippo_core/untrusted/parquet.py" in readers
    assert all(path.startswith(rooms) for path in readers), readers


def test_timm_stays_under_models() -> None:
    assert importers("timm")
    assert all(file.startswith("clippo_core/models/") for file in importers("timm"))


def test_workflows_only_wire() -> None:
    for path in (PROJECT / "workflows").glob("*.py"):
        assert imports_of(path) <= {
            "__future__",
            "datetime",
            "functools",  # what a map binds
            "flytekit",
            "clippo_core",
            "tasks",
            "workflows",
        }, path
        core = {
            module
            for module in imported_modules(module_name(path))
            if module.startswith("clippo_core.")
        }
        assert core <= {
            "clippo_core.config",
            "clippo_core.config.presets",
            "clippo_core.run.folder",
            "clippo_core.run.records",
            "clippo_core.run",
        }, path


def floor(module: str) -> int | None:
    """The layer of a module: of the longest name in LAYERS that it is, or lies in."""
    words = module.removeprefix("clippo_core.").split(".")
    rank = {name: number for number, names in enumerate(LAYERS) for name in names}
    names = (".".join(words[:n]) for n in range(len(words), 0, -1))
    return next((rank[name] for name in names if name in rank), None)


def test_layers_point_down() -> None:
    for path in FILES:
        name = module_name(path)
        if not name.startswith("clippo_core."):
            continue
        imported = {m for m in imported_modules(name) if m.startswith("clippo_core.")}
        # A package that is only passed on the way to one of its modules is no dependency.
        passed = {m for m in imported if any(other.startswith(m + ".") for other in imported)}
        for module in imported - passed:
            here, there = floor(name), floor(module)
            assert here is not None and there is not None, (name, module)
            same_room = module.split(".")[1] == name.split(".")[1]
            assert there < here or (same_room and there == here), (
                f"{name} imports {module}, which is not below it"
            )


def strings_of(tree: ast.AST) -> set[str]:
    """Every string, and every part of an f-string, in the code; docstrings are left out."""
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said
    }


def test_the_folder_of_a_run_is_laid_out_in_one_place() -> None:
    home = PROJECT / "clippo_core/run/folder.py"
    names = strings_of(ast.parse(home.read_text())) - {"", "-", ".", "/", ".json"}
    assert {"shards", "checkpoints", "journal.jsonl", "result.json", "promoted-"} <= names
    for path in set(FILES) - {home}:
        tree = ast.parse(path.read_text())
        joined = [
            string
            for call in ast.walk(tree)
            if isinstance(call, ast.Call)
            and ast.unparse(call.func).rpartition(".")[2] in {"join", "joinpath"}
            for string in strings_of(call)
        ]
        files = {name for name in names if not name.isalpha()}
        again = names & set(joined) | files & strings_of(tree)
        assert not again, f"{path} says {sorted(again)}; take it from clippo_core/run/folder.py"


def test_no_import_circle() -> None:
    graph = {module_name(path): set() for path in FILES}
    for name in graph:
        # A package's __init__ re-exports its modules, and they pass through it on the way to each
        # other: that is no circle of ideas.
        graph[name] = {
            m for m in imported_modules(name) if m in graph and module_path(m).name != "__init__.py"
        }
    for start in graph:
        seen, todo = set(), set(graph[start])
        while todo:
            module = todo.pop()
            assert module != start, f"{start} imports itself through a circle"
            if module not in seen:
                seen.add(module)
                todo |= graph[module]


def test_no_vague_file_names() -> None:
    vague = {"utils", "util", "common", "helpers", "helper", "base", "misc"}
    assert not [path for path in FILES if path.stem in vague]


def test_files_open_with_what_they_are() -> None:
    for path in FILES:
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no docstring"


def test_importing_workflows_leaves_the_heavy_libraries_out() -> None:
    program = (
        "import sys, workflows; heavy = {'torch', 'deepspeed', 'great_expectations', 'timm',"
        " 'matplotlib', 'datasets', 'boto3', 'sklearn', 'numpy', 'PIL'};"
        " print(sorted(heavy & set(sys.modules)), len(workflows.__all__))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\[\] [1-9]\d*", done.stdout.strip().splitlines()[-1]), done.stdout


def test_code_digest_follows_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "clippo_core.errors" in reached_modules("clippo_core.config")
    assert "clippo_core.train.loop" in reached_modules(
        "tasks.pretrain"
    )  # imported inside the function
    assert "tasks.settings" not in reached_modules("tasks.pretrain")
    assert code_digest("clippo_core.config") != code_digest("clippo_core.errors")
    with pytest.raises(ValueError, match="no module of this project"):
        code_digest("clippo_core.nowhere")


def readme_commands() -> list[str]:
    """Every command line in the README's indented or fenced blocks that starts with make, pyflyte
    or python.
    """
    text = (PROJECT / "README.md").read_text()
    return [
        line.strip()
        for line in text.splitlines()
        if re.match(r"^\s*(make|\.venv/bin/\S+|pyflyte|python) ", line)
    ]


def test_readme_commands_exist() -> None:
    import workflows

    targets = set(re.findall(r"^([a-z-]+(?: [a-z-]+)*):", (PROJECT / "Makefile").read_text(), re.M))
    targets = {word for line in targets for word in line.split()}
    commands = readme_commands()
    assert {"make demo", "make test"} <= {" ".join(command.split()[:2]) for command in commands}
    for command in commands:
        words = command.split()
        if words[0] == "make":
            assert words[1] in targets, (
                f"README shows `{command}`, and the Makefile has no such target"
            )
        elif "workflows" in words:
            name = words[words.index("workflows") + 1]
            assert name in workflows.__all__, (
                f"README shows `{command}`, and there is no workflow {name}"
            )
        elif words[0] == ".venv/bin/clippo":
            name = words[1]
            done = subprocess.run(
                [sys.executable, "-m", "clippo_core", name, "--help"],
                cwd=PROJECT,
                capture_output=True,
                timeout=60,
            )
            assert done.returncode == 0, f"README shows `{command}`, and there is no command {name}"


def test_make_help_tells_every_target() -> None:
    listed = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)$", (PROJECT / "Makefile").read_text(), re.M)
    assert listed is not None
    done = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    lines = [re.split(r"  +", line, maxsplit=1) for line in done.stdout.splitlines()]
    told = {target: meaning for targets, meaning in lines for target in targets.split()}
    assert told.keys() == set(listed[1].replace("\\", " ").split()) and all(told.values())


def test_version_is_said_alike() -> None:
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    images = yaml.safe_load((PROJECT / "flyte.yaml").read_text())["images"]
    assert not any(":" in image for image in images.values())  # the Makefile adds the commit
    parts = re.findall(r"^## (\S+)", (PROJECT / "CHANGELOG.md").read_text(), re.M)
    assert parts[:2] == ["Unreleased", version]


def test_readme_is_one_page() -> None:
    assert len((PROJECT / "README.md").read_text().splitlines()) <= 150
