"""`clippo preset`: a complete run's configuration, as JSON."""

from __future__ import annotations

import argparse
import inspect
from typing import Any, get_type_hints

from clippo_core.cli.options import Names, add_command, named
from clippo_core.errors import ConfigError, DataError
from clippo_core.untrusted.json import at, load_json
from clippo_core.untrusted.limits import LIMITS

EXAMPLES = """\
Prints the preset as JSON, to be edited and given to
`pyflyte run workflows pretrain_and_evaluate --config run.json`.

Their names; one of them; one with other arguments and fields:
  clippo preset
  clippo preset slices --data DATA > run.json
  clippo preset paper_b16 --set c4_share=0.25 --set train__zero_stage=2 --set name=mine
"""


def add(names: Names) -> None:
    """Add the command."""
    summary = "a complete run's configuration, as JSON"
    command = add_command(names, "preset", preset, summary, EXAMPLES)
    command.add_argument("name", nargs="?", default="", metavar="PRESET")
    command.add_argument("--data", default="", help="folder or bucket prefix of the data")
    command.add_argument("--root", default="", help="where runs go")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an argument of it, or a field: train__steps=10",
    )


def preset(chosen: argparse.Namespace) -> None:
    """A preset as JSON, or their list."""
    from clippo_core import config
    from clippo_core.config import presets

    functions = presets.by_name()
    if not chosen.name:
        for name, function in functions.items():
            print(f"{name:<18}{(function.__doc__ or '').splitlines()[0]}")
        return
    if chosen.name not in functions:
        raise ConfigError(f"there is no preset {chosen.name}; there are {', '.join(functions)}.")
    function = functions[chosen.name]
    settings = {name: _value(text) for name, text in named(chosen.set, "--set").items()}
    settings |= {
        name: value for name, value in (("data", chosen.data), ("root", chosen.root)) if value
    }
    kinds = get_type_hints(function)
    parameters = inspect.signature(function).parameters
    own = {
        name: _typed(settings.pop(name), kinds[name], f"preset {chosen.name}", name)
        for name in list(settings)
        if name in parameters
    }
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in own:
            option = f"--{name} FOLDER" if name == "data" else f"--set {name}=VALUE"
            raise ConfigError(f"preset {chosen.name} needs {name}; add {option}.")
    print(config.to_json(config.replace(function(**own), **settings)))


def _value(text: str) -> Any:
    """A setting's value: JSON where it is some, else the words themselves."""
    try:
        return load_json(text, "--set", max_bytes=LIMITS.json_header_bytes)
    except DataError:
        return text


def _typed(value: Any, kind: type, where: str, name: str) -> Any:
    """An argument of a preset as its hint wants it; a folder may well be called 2024."""
    value = str(value) if kind is str and isinstance(value, (int, float)) else value
    return at(value, kind, where, name, error=ConfigError)
