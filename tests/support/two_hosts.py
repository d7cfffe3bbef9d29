"""Two "hosts" on one machine: network namespaces with a cable between them, a host name and an
/etc/hosts each. Needs root.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

NAMES = ("node-0", "node-1")


class Hosts:
    """The hosts `node-0` and `node-1`."""

    def __init__(self, tag: str):
        self._spaces = [f"clippo-{tag}-{number}" for number in (0, 1)]
        self._cables = [f"cl{tag}{number}" for number in (0, 1)]

    def __enter__(self) -> Hosts:
        subnet = f"10.231.{secrets.randbelow(200) + 20}"
        hosts = "127.0.0.1 localhost\n" + "".join(
            f"{subnet}.{number + 1} {name}\n" for number, name in enumerate(NAMES)
        )
        for space in self._spaces:
            _ip("netns", "add", space)
            folder = Path("/etc/netns") / space
            folder.mkdir(parents=True)
            (folder / "hosts").write_text(hosts)
        _ip("link", "add", self._cables[0], "type", "veth", "peer", "name", self._cables[1])
        for number, (space, cable) in enumerate(zip(self._spaces, self._cables, strict=True)):
            _ip("link", "set", cable, "netns", space)
            _ip("-n", space, "addr", "add", f"{subnet}.{number + 1}/24", "dev", cable)
            _ip("-n", space, "link", "set", cable, "up")
            _ip("-n", space, "link", "set", "lo", "up")
        return self

    def __exit__(self, *_: object) -> None:
        for number, space in enumerate(self._spaces):
            self.kill(number)
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("netns", "delete", space)
            shutil.rmtree(Path("/etc/netns") / space, ignore_errors=True)

    def start(
        self, number: int, command: list[str], log: Path, **environment: str
    ) -> subprocess.Popen[bytes]:
        """Run a command on a host, its output in `log`."""
        inside = [
            "unshare",
            "--uts",
            "sh",
            "-c",
            f'hostname {NAMES[number]} && exec "$@"',
            "sh",
            *command,
        ]
        with open(log, "ab") as output:
            return subprocess.Popen(
                ["ip", "netns", "exec", self._spaces[number], *inside],
                stdout=output,
                stderr=output,
                env={**os.environ, "GLOO_SOCKET_IFNAME": self._cables[number], **environment},
            )

    def kill(self, number: int) -> None:
        """Everything on this host is gone at once."""
        found = subprocess.run(
            ["ip", "netns", "pids", self._spaces[number]],
            capture_output=True,
            text=True,
            check=False,
        )
        for pid in found.stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


@contextlib.contextmanager
def two_hosts() -> Iterator[Hosts]:
    """Two connected hosts; skips the test where this machine does not let us make them."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "unshare"))):
        pytest.skip("two hosts need root, and the tools ip and unshare")
    hosts = Hosts(secrets.token_hex(3))
    try:
        hosts.__enter__()
    except (subprocess.CalledProcessError, OSError) as error:
        hosts.__exit__()
        pytest.skip(f"this machine does not allow network namespaces ({error})")
    try:
        yield hosts
    finally:
        hosts.__exit__()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
