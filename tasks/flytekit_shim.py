"""The one change that this project makes to flytekit: a dataclass's schema is built once.

flytekit builds the JSON schema of a dataclass anew for every task that mentions it. For this
project's configs that takes 18 s at each start, in every pod too; remembered, it takes 4 s.
"""

from __future__ import annotations

import copy
import functools
import inspect
import warnings
from typing import Any

import flytekit
from flytekit.core.type_engine import DataclassTransformer
from mashumaro.jsonschema import schema as json_schema

WRITTEN_FOR = "1.16."
"""Beginning of the versions of flytekit whose `get_literal_type` is known to depend on its type
alone."""


def remember_schemas() -> bool:
    """Let flytekit remember the literal type of each dataclass, for the whole process; whether it
    does.

    Process-wide, because tasks, workflows and launch plans ask for it when they are declared, and
    flytekit again when it runs or registers them. With another flytekit than this was written for
    nothing is changed, and a warning says so: everything works, and starts more slowly.
    """
    original = DataclassTransformer.get_literal_type
    parameters = list(inspect.signature(original).parameters)
    default = getattr(json_schema, "_default", None)
    is_known = flytekit.__version__.startswith(WRITTEN_FOR) and parameters == ["self", "t"]
    if not is_known or default is None:
        warnings.warn(
            f"flytekit {flytekit.__version__} is not the {WRITTEN_FOR}x that tasks/flytekit_shim.py"
            f" was written for (get_literal_type takes {', '.join(parameters)}): it builds every"
            " schema anew, and a start takes about 14 s longer. Look at the shim, then raise"
            " WRITTEN_FOR.",
            stacklevel=2,
        )
        return False
    known = functools.cache(original)

    @functools.wraps(original)
    def remembered(self: DataclassTransformer, t: Any) -> Any:
        # A copy, because flytekit replaces attributes of what it gets; it changes nothing below
        # them.
        return copy.copy(known(self, t))

    DataclassTransformer.get_literal_type = remembered
    # Beneath it, mashumaro compiles a class for every default of a field, only to write that one
    # default down. `typed`, because 1, 1.0 and True are equal and written differently.
    vars(json_schema)["_default"] = functools.lru_cache(maxsize=None, typed=True)(default)
    return True
