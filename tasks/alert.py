"""The task `alert`: runs when the workflow fails; writes the failure to the log, and posts it to a
webhook where one is configured.

The webhook's address is the Flyte secret `clippo/webhook` (a mounted file on a cluster). Flyte's
own notifications are e-mail only.
"""

from __future__ import annotations

import datetime
import json
import logging
import urllib.request

from flytekit import current_context, task
from flytekit.types.error import FlyteError

from clippo_core.config import RunConfig
from tasks import settings

_logger = logging.getLogger(__name__)
WEBHOOK_SECRET = ("clippo", "webhook")


@task(**settings.processing(cpu="1", memory="1Gi", disk="1Gi"))
def alert(
    config: RunConfig, kickoff_time: datetime.datetime, err: FlyteError | None = None
) -> None:
    """Tell somebody that a run failed, and where."""
    scheduled = f" of {kickoff_time:%Y-%m-%d %H:%M}" if kickoff_time.year > 1970 else ""
    what = f"run {config.name}{scheduled} failed"
    message = f"{what} in {err.failed_node_id}: {err.message}" if err else what
    _logger.error(message)
    try:
        webhook = current_context().secrets.get(*WEBHOOK_SECRET)
    except ValueError:
        _logger.info(
            "no webhook is configured (Flyte secret %s/%s), so nobody else was told",
            *WEBHOOK_SECRET,
        )
        return
    request = urllib.request.Request(
        webhook, json.dumps({"text": message}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30):
        pass
