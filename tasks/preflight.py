"""The task `preflight`: what a pod on this cluster can do, found out by doing it."""

from __future__ import annotations

from flytekit import current_context, task

from tasks import settings
from tasks.alert import WEBHOOK


@task(
    **settings.processing(cpu="1", memory="1Gi", disk="1Gi"),
    secret_requests=[WEBHOOK],
)
def probe(root: str) -> list[str]:
    """What is missing for runs under `root`, one sentence each; empty = nothing."""
    from clippo_core import storage
    from clippo_core.errors import ClippoError

    missing = []
    try:
        settings.require_shared(root)
        written = storage.join(root, f"preflight-{current_context().execution_id.name}.txt")
        storage.write_text(written, "written by `make preflight`; may be deleted\n")
        storage.read_text(written)
        storage.delete(written)
    except ClippoError as error:
        missing.append(
            f"A pod cannot write, read and delete below {root}: {error} Give the service account of"
            " the project's namespace these rights on the bucket."
        )
    try:
        current_context().secrets.get(WEBHOOK.group, WEBHOOK.key)
    except ValueError:
        missing.append(
            f"There is no secret {WEBHOOK.group} with a key {WEBHOOK.key} in the project's"
            " namespace, so failures are told by e-mail only; docs/cluster.md says how to make one."
        )
    return missing
