"""A clock that a test moves, and with it the scheduler of FlyteAdmin's double: whatever active
launch plan falls due is launched with its own time.
"""

from __future__ import annotations

import datetime
from typing import Any

import grpc
from cluster import Cluster
from croniter import croniter
from double_admin import Execution
from flyteidl.core import literals_pb2

WEEK = datetime.timedelta(days=7)


class Clock:
    """Stands at `now`. `skipped`: (launch plan, due time) of what was not launched, because its
    concurrency policy did not let it.
    """

    def __init__(self, cluster: Cluster, now: datetime.datetime) -> None:
        self.cluster, self.now = cluster, now
        self.skipped: list[tuple[str, datetime.datetime]] = []

    def advance(self, until: datetime.datetime) -> list[Execution]:
        """Move on; the executions that were launched on the way.

        flyteadmin/scheduler/core/gocron_scheduler.go and executor/executor_impl.go: the active
        version's schedule, the scheduled time as the kickoff argument; one that is refused for the
        concurrency policy is not launched later.
        """
        due = []
        admin = self.cluster.admin
        for place, version in admin.active.items():
            schedule = admin.plans[(*place, version)].entity_metadata.schedule
            times = croniter(schedule.cron_schedule.schedule, self.now)
            while (time := times.get_next(datetime.datetime)) <= until:
                due.append((time, place[2], version, schedule.kickoff_time_input_arg))
        self.now = until
        started = []
        for time, plan, version, argument in sorted(due):
            try:
                inputs = {argument: moment(time)} if argument else {}
                started.append(self.cluster.launch(plan, version, inputs))
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
                self.skipped.append((plan, time))
        return started


def moment(time: datetime.datetime) -> Any:
    """A time as Flyte's literal."""
    literal = literals_pb2.Literal()
    literal.scalar.primitive.datetime.FromDatetime(time)
    return literal
