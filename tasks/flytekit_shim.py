"""What this project does differently from flytekit, so that a start takes seconds less, and what no
repetition cures is not repeated.

    remember_schemas()   a dataclass's JSON schema is built once: flytekit builds it anew for every
                         task that mentions it, 18 s for this project's configs
    ElasticOfOneSize     flytekit's Elastic without `import torch` at the declaration of a task,
                         which is half of a start; and it starts nothing again after
    no_restart()         which a worker calls before it raises what no repetition cures

All are written for one version of flytekit; with another one, flytekit's own way is taken.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flytekit
from flytekit import PythonFunctionTask
from flytekit.core.type_engine import DataclassTransformer
from flytekit.extend import TaskPlugins
from flytekitplugins.kfpytorch import Elastic
from flytekitplugins.kfpytorch.task import PytorchElasticFunctionTask
from mashumaro.jsonschema import schema as json_schema

WRITTEN_FOR = "1.16."
"""Beginning of the versions of flytekit and its PyTorch plugin that this file was checked with:
`get_literal_type` depends on its type alone, and Elastic's task uses torch at its declaration only
to parse a range of nodes."""


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


class ElasticOfOneSize(Elastic):  # type: ignore[misc]  # the plugin is untyped
    """Elastic for a fixed number of nodes: an integer, no range."""


class ElasticOfOneSizeTask(PytorchElasticFunctionTask):  # type: ignore[misc]
    """The plugin's task; torch is imported when it runs."""

    def __init__(self, task_config: Elastic, task_function: Callable[..., Any], **kwargs: Any):
        if not flytekit.__version__.startswith(WRITTEN_FOR) or task_config.increase_shared_mem:
            super().__init__(task_config, task_function, **kwargs)
            return
        is_alone = task_config.nnodes == 1
        PythonFunctionTask.__init__(
            self,
            task_config=task_config,
            task_type=self._ELASTIC_TASK_TYPE_STANDALONE if is_alone else self._ELASTIC_TASK_TYPE,
            task_function=task_function,
            task_type_version=1,
            **kwargs,
        )
        self.min_nodes = self.max_nodes = int(task_config.nnodes)
        self.rdzv_backend = "c10d"

    def execute(self, **kwargs: Any) -> Any:
        """Run the function on every rank; what it returns on the first one."""
        known = flytekit.__version__.startswith(WRITTEN_FOR)
        with _stopped_by_its_workers() if known else contextlib.nullcontext():
            return super().execute(**kwargs)


def no_restart() -> None:
    """Called by a rank before it raises an error that would come again: Elastic's agent on this
    node does not start its ranks again. It does after every other error, for it knows none.

    Does nothing outside Elastic's workers.
    """
    error_file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if error_file:
        _note(error_file).touch()


def _note(error_file: str) -> Path:
    """Of one start of a node's ranks, each of which has a folder of its own for its error."""
    return Path(error_file).parent.parent / "no_restart"


@contextlib.contextmanager
def _stopped_by_its_workers() -> Iterator[None]:
    """Let Elastic's agent heed `no_restart`. Torch has no option for that, and builds its agent
    itself (torch.distributed.launcher.api: launch_agent).
    """
    from torch.distributed.launcher import api

    own = api.LocalElasticAgent

    class Agent(own):  # type: ignore[misc, valid-type]
        def _monitor_workers(self, worker_group: Any) -> Any:
            result = super()._monitor_workers(worker_group)
            if any(_note(failure.error_file).exists() for failure in result.failures.values()):
                self._remaining_restarts = 0
            return result

    vars(api)["LocalElasticAgent"] = Agent
    try:
        yield
    finally:
        vars(api)["LocalElasticAgent"] = own


TaskPlugins.register_pythontask_plugin(ElasticOfOneSize, ElasticOfOneSizeTask)
