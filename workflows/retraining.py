"""Launch plans: one run or the demo by hand (`make run`), retraining every week, evaluation of the
promoted model every night, deletion of old runs every week. Registered inactive; `make activate`
starts the schedules.
"""

from __future__ import annotations

from flytekit import CronSchedule, Email, LaunchPlan, WorkflowExecutionPhase
from flytekit.models.concurrency import ConcurrencyLimitBehavior, ConcurrencyPolicy

from clippo_core.config import RunConfig, presets
from clippo_core.run.folder import BaseFolder
from workflows.evaluation import evaluate_promoted
from workflows.pipeline import UNSCHEDULED, demo, pretrain_and_evaluate
from workflows.retention import retention

OPERATORS = ["clippo-operators@example.org"]
"""Who is told of a failure by Flyte's own e-mail; the webhook of tasks/alert.py is the other
way."""

_NOTIFICATIONS = [
    Email(
        phases=[WorkflowExecutionPhase.FAILED, WorkflowExecutionPhase.TIMED_OUT],
        recipients_email=OPERATORS,
    )
]
# A run that takes longer than its period goes on, and the next one is left out.
_ONE_AT_A_TIME = ConcurrencyPolicy(1, ConcurrencyLimitBehavior.SKIP)
WEEKLY: RunConfig = presets.weekly()
"""What the schedules train, evaluate and clean up, and where: `presets.weekly(data=..., root=...)`
for a bucket of your own."""

# Without a kickoff time to give: flytekit's command line refuses its own rendering of the default.
by_hand = LaunchPlan.get_or_create(
    pretrain_and_evaluate,
    name="pretrain_and_evaluate",
    fixed_inputs={"kickoff_time": UNSCHEDULED},
)

demo_by_hand = LaunchPlan.get_or_create(
    demo, name="demo", fixed_inputs={"kickoff_time": UNSCHEDULED}
)

weekly_retraining = LaunchPlan.get_or_create(
    pretrain_and_evaluate,
    name="weekly_retraining",
    default_inputs={"config": WEEKLY},
    schedule=CronSchedule(schedule="0 2 * * 0", kickoff_time_input_arg="kickoff_time"),
    notifications=_NOTIFICATIONS,
    concurrency=_ONE_AT_A_TIME,
)

nightly_evaluation = LaunchPlan.get_or_create(
    evaluate_promoted,
    name="nightly_evaluation",
    default_inputs={
        "promoted": BaseFolder(WEEKLY.root).promoted(WEEKLY.name),
        "evaluate": WEEKLY.evaluate,
        "root": WEEKLY.root,
    },
    schedule=CronSchedule(schedule="0 4 * * *", kickoff_time_input_arg="kickoff_time"),
    notifications=_NOTIFICATIONS,
    concurrency=_ONE_AT_A_TIME,
)

# It deletes, as soon as somebody switches it on; the workflow `retention` by itself only tells.
weekly_retention = LaunchPlan.get_or_create(
    retention,
    name="weekly_retention",
    default_inputs={"root": WEEKLY.root, "delete": True},
    schedule=CronSchedule(schedule="0 6 * * 3"),
    notifications=_NOTIFICATIONS,
    concurrency=_ONE_AT_A_TIME,
)
