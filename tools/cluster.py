"""What pyflyte's own commands do not do on a cluster; the Makefile calls it.

python tools/cluster.py --configuration flyte.yaml deactivate weekly_retraining
"""

from __future__ import annotations

import argparse

from flytekit.configuration import Config
from flytekit.models.launch_plan import LaunchPlanState
from flytekit.remote import FlyteRemote


def deactivate(remote: FlyteRemote, plan: str) -> None:
    """Switch off the version that is active. `pyflyte launchplan --deactivate` takes the newest
    one, which leaves the schedule of an older one running.
    """
    active = remote.fetch_active_launchplan(name=plan)
    if active is None:
        print(f"{plan} is not active in {remote.default_project}/{remote.default_domain}.")
        return
    remote.client.update_launch_plan(active.id, LaunchPlanState.INACTIVE)
    print(f"Switched off {plan}, version {active.id.version}.")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("configuration", "project", "domain"):
        parser.add_argument(f"--{name}", required=True)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("deactivate", help=deactivate.__doc__).add_argument("plan")
    said = parser.parse_args()
    remote = FlyteRemote(Config.auto(said.configuration), said.project, said.domain)
    if said.command == "deactivate":
        deactivate(remote, said.plan)


if __name__ == "__main__":
    main()
