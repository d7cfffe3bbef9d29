"""The tasks that tell somebody, through the log and a webhook: `alert` and `alert_promoted` when a
workflow fails, `refused` when a finished model is not promoted.

    run weekly of 2026-11-22 02:00 failed in validate: DataError: 40 of 100 pairs are unusable ...
    execution clippo/production/f2c9..., https://flyte.example.org/console/projects/clippo/...

The webhook's address is the Flyte secret `clippo/webhook`, a file that a cluster mounts into the
pods of these tasks alone; it gets {"text": ...}, which Slack, Mattermost and Teams understand.
Flyte's own notifications are e-mail only.
"""

from __future__ import annotations

import datetime
import importlib
import json
import logging
import os
import re
import urllib.error
import urllib.request
from typing import Any

from flytekit import Secret, current_context, task
from flytekit.configuration import Config
from flytekit.configuration.file import FLYTECTL_CONFIG_ENV_VAR_OVERRIDE
from flytekit.exceptions.user import FlyteRecoverableException
from flytekit.types.error import FlyteError

from clippo_core.config import EvaluateConfig, RunConfig
from clippo_core.run.records import Verdict
from tasks import settings

_logger = logging.getLogger(__name__)
WEBHOOK = Secret(group="clippo", key="webhook")


def _console() -> str:
    """Address of Flyte's console, as the client's configuration names it; empty where none does."""
    # flytekit remembers which file it reads before `pyflyte -c` says which.
    chosen = os.environ.get(FLYTECTL_CONFIG_ENV_VAR_OVERRIDE)
    return (Config.auto(chosen).platform.console_endpoint or "").rstrip("/")


def _telling() -> dict[str, Any]:
    """Settings of a task that tells somebody."""
    box = settings.processing(cpu="1", memory="1Gi", disk="1Gi")
    # In the pod, which has no flyte.yaml, flytekit reads the console's address from here.
    box["environment"] = box["environment"] | {"FLYTE_PLATFORM_CONSOLE_ENDPOINT": _console()}
    # An image that holds another program stops every other task: somebody must be told.
    del box["environment"]["CLIPPO_PROGRAM"]
    return box | {"secret_requests": [WEBHOOK], "timeout": settings.TIMEOUTS["telling"]}


@task(**_telling())
def alert(
    config: RunConfig, kickoff_time: datetime.datetime, err: FlyteError | None = None
) -> None:
    """Tell that a run failed, in which stage and why."""
    _tell(f"run {config.name}", kickoff_time, f"failed{_cause(err)}")


@task(**_telling())
def alert_promoted(
    promoted: str,
    evaluate: EvaluateConfig,
    root: str,
    kickoff_time: datetime.datetime,
    err: FlyteError | None = None,
) -> None:
    """Tell that the promoted model could not be evaluated. Takes every input of the workflow,
    because Flyte asks that of a failure handler.
    """
    _tell(f"evaluation of {promoted}", kickoff_time, f"failed{_cause(err)}")


@task(**_telling())
def refused(config: RunConfig, kickoff_time: datetime.datetime, verdict: Verdict) -> None:
    """Tell that a finished model was not promoted; says nothing where it was."""
    if not verdict.promoted:
        _tell(f"run {config.name}", kickoff_time, f"finished. {verdict.reason}")


def _tell(what: str, kickoff_time: datetime.datetime, outcome: str) -> None:
    """Write to the log, and post to the webhook where one is configured. A webhook that does not
    answer is tried again by Flyte.
    """
    scheduled = f" of {kickoff_time:%Y-%m-%d %H:%M}" if kickoff_time.year > 1970 else ""
    text = f"{what}{scheduled} {outcome}\n{_place()}"
    _logger.error(text if settings.in_pod() else text.partition("\n")[0])
    try:
        webhook = current_context().secrets.get(WEBHOOK.group, WEBHOOK.key)
    except ValueError:
        if settings.in_pod():  # elsewhere, who started it reads the log
            _logger.warning(
                "nobody else was told: this project has no Flyte secret %s/%s with the address of a"
                " webhook",
                WEBHOOK.group,
                WEBHOOK.key,
            )
        return
    request = urllib.request.Request(
        webhook, json.dumps({"text": text}).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30):
            pass
    except urllib.error.URLError as error:
        # The address is a secret, so it stays out of the message.
        raise FlyteRecoverableException(
            f"The webhook in the secret {WEBHOOK.group}/{WEBHOOK.key} took no message: {error}."
        ) from None


def _place() -> str:
    """The execution, and its page in Flyte's console."""
    execution = current_context().execution_id
    page = (
        f"/console/projects/{execution.project}/domains/{execution.domain}"
        f"/executions/{execution.name}"
    )
    name = f"execution {execution.project}/{execution.domain}/{execution.name}"
    return f"{name}, {_console()}{page}" if _console() else name


def _cause(err: FlyteError | None) -> str:
    """` in STAGE: first line of the error`, as far as Flyte tells it."""
    return f"{_stage(err.message)}: {_first_line(err.message)}" if err else ""


def _stage(message: str) -> str:
    """` in STAGE`. Flyte hands over the id of the failure handler itself as the failed node, so the
    stage is looked for in the message: the task's function in the traceback, or the node in the
    name of a pod that died without one.
    """
    function = re.search(r'/tasks/\w+\.py", line \d+, in ([a-z]\w*)', message)
    execution = re.escape(current_context().execution_id.name)
    pod = re.search(rf"\b{execution}-(n\d+(?:-\d+-n\d+|-n\d+)*)-\d+\b", message)
    if function or not pod:
        return f" in {function[1]}" if function else ""
    return f" in {_task_of(pod[1]) or pod[1]}"


def _task_of(node: str) -> str:
    """Function of the task of a node, by the node's id from the root's on, as in `n4-0-n1`; empty
    where the workflow of this execution is not at hand.
    """
    module, _, name = os.environ.get("FLYTE_INTERNAL_EXECUTION_WORKFLOW", "").rpartition(".")
    try:
        entity = getattr(importlib.import_module(module), name)
        for part in re.findall(r"n\d+", node):
            if not hasattr(entity, "nodes"):  # a task; what follows is the item of its map
                break
            entity = next(one for one in entity.nodes if one.id == part).flyte_entity
        return str(getattr(entity, "python_function_task", entity).name).rpartition(".")[2]
    except Exception:  # whatever it is: the message goes out, with the node's id
        return ""


def _first_line(message: str) -> str:
    """What was said, without what stands around it: Flyte's count of the attempts, the traceback
    (flytekit puts the message below it), and with Elastic the one of the rank that failed first.
    """
    text = re.sub(r"^\[\d+/\d+\] currentAttempt done\. Last Error: \w+::", "", message)
    text = text.rpartition("\nMessage:\n")[2]
    if "traceback :" in text:
        raised = re.findall(r"^\s*[\w.]+(?:Error|Exception|Preempted|Interrupt): .+$", text, re.M)
        text = raised[-1] if raised else text
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason was given")
