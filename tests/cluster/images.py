"""Both Dockerfiles built for real, without docker and without a registry of images: buildah, on a
stand-in for their bases, and pods as containers of what it built.

    Debian's smallest system (debootstrap) + this Python = python:3.12…, nvidia/cuda:…

The stand-in has the bases' names. It shows that the recipes build from the locks, what they copy,
their user and their last check; not CUDA's and Ubuntu's own files, nor a push.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from conftest import PROJECT
from double_pod import Pods

TOOLS = ("buildah", "debootstrap")
LIBRARIES = (
    "ca-certificates,libssl3,libffi8,zlib1g,libbz2-1.0,liblzma5,libsqlite3-0,libreadline8,"
    "libncursesw6,libuuid1,libgomp1"
)
"""What CPython and the wheels link to, and slim images of Python have."""
PYTHONS = ("python3.12", "python3.12-dev", "python3.12-venv")
"""Packages of Ubuntu that Debian has not; the stand-in's are empty, its Python is this one."""


class Builder:
    """Images in a storage of their own below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        self._images: dict[str, str] = {}

    def buildah(self, *words: str, timeout: float = 600) -> str:
        done = subprocess.run(
            [*self._words(), *words], capture_output=True, text=True, timeout=timeout
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def _words(self) -> list[str]:
        place = ["--root", f"{self.folder}/storage", "--runroot", f"{self.folder}/run"]
        return ["buildah", "--storage-driver", "overlay", *place]

    def base(self) -> None:
        """The stand-in, under every name that a Dockerfile begins with."""
        root = self.folder / "rootfs"
        subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={LIBRARIES}", "bookworm", root],
            check=True, capture_output=True, timeout=1200,
        )  # fmt: skip
        python = Path(sys.base_prefix)
        ignored = shutil.ignore_patterns("__pycache__", "test", "tests", "site-packages")
        shutil.copytree(python, root / python.relative_to("/"), ignore=ignored, symlinks=True)
        for name in ("python", "python3", "python3.12"):
            (root / "usr/local/bin" / name).symlink_to(python / "bin/python3")
        for parent in [*python.relative_to("/").parents][:-1]:
            (root / parent).chmod(0o755)  # whoever runs must reach it; /root is not the user's
        _empty_packages(root)
        recipe = self.folder / "base.Dockerfile"
        recipe.write_text("FROM scratch\nCOPY rootfs/ /\n")
        texts = [path.read_text() for path in (PROJECT / "containers").glob("*.Dockerfile")]
        names = {name for text in texts for name in re.findall(r"^FROM (\S+)", text, re.M)}
        first, *others = sorted(names)
        self._build(first, recipe, self.folder, [])
        for name in others:
            self.buildah("tag", first, name)
        shutil.rmtree(root)

    def build(self, name: str, *, local_wheels: bool) -> int:
        """Build containers/NAME.Dockerfile; its size in bytes. local_wheels: pip may take wheels
        that lie on this machine, such as a torch for CPUs.
        """
        recipe = PROJECT / "containers" / f"{name}.Dockerfile"
        self._build(f"localhost/clippo-{name}", recipe, PROJECT, self._pip(local_wheels))
        shown = self.buildah("images", "--json", f"localhost/clippo-{name}")
        (size,) = re.findall(r'"size": "([^"]+)"', shown)
        number, unit = size.split()
        return int(float(number) * {"MB": 1e6, "GB": 1e9}[unit])

    def _build(self, tag: str, recipe: Path, context: Path, options: list[str]) -> None:
        words = ["bud", "--isolation", "chroot", "--pull-never", "--layers", "--format", "docker"]
        words += ["--signature-policy", f"{self.folder}/policy.json", *options]
        self.buildah(*words, "-t", tag, "-f", str(recipe), str(context), timeout=3600)

    def _pip(self, local_wheels: bool) -> list[str]:
        """Mounts that let pip in a build reach what this machine's pip reaches."""
        shown = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True,
            text=True, timeout=60,
        ).stdout  # fmt: skip
        found = dict(re.findall(r"^(?:global|:env:)\.([\w-]+)='(.*)'$", shown, re.M))
        if not local_wheels:
            found.pop("find-links", None)
        lines = [f"{name} = {value}" for name, value in found.items()]
        (self.folder / "pip.conf").write_text("\n".join(["[global]", *lines, ""]))
        paths = re.findall(r"(?:file://)?(/[\w./-]+)", " ".join(found.values()))
        mounted = {str(Path(path)) for path in paths if Path(path).exists()}
        mounted = {str(Path(p).parent) if Path(p).name == "simple" else p for p in mounted}
        volumes = [f"{path}:{path}:ro" for path in sorted(mounted | {"/etc/ssl/certs"})]
        volumes += [f"{self.folder}/pip.conf:/etc/pip.conf:ro"]
        return [word for volume in volumes for word in ("--volume", volume)]

    def run(self, name: str, *options: str, command: list[str]) -> list[str]:
        """The command line that runs `command` in a new container of clippo-NAME, as its user."""
        policy = f"{self.folder}/policy.json"
        image = f"localhost/clippo-{name}"
        container = self.buildah("from", "--pull-never", "--signature-policy", policy, image)
        words = ["run", "--isolation", "chroot", "--user", "10001:10001", "--workingdir", "/root"]
        # Without a name that resolves, Elastic's rendezvous waits for ever.
        words += ["--hostname", "localhost", *options, container.strip(), "--"]
        return [*self._words(), *words, *command]


class ContainerPods(Pods):
    """Pods whose containers are real: of the image that their task names."""

    builder: Builder

    def command(
        self, template: Any, arguments: list[str], variables: dict[str, str], folder: Path
    ) -> list[str]:
        name = "train" if "train" in template.container.image else "cpu"
        given = {
            key: value
            for key, value in variables.items()
            if key.startswith(("FLYTE_", "PET_", "CLIPPO_", "OMP_", "BATCH_"))
        }
        given |= {one.key: one.value for one in template.container.env}
        options = [word for key, value in given.items() for word in ("--env", f"{key}={value}")]
        if (folder / "secrets").exists():
            options += ["--volume", f"{folder}/secrets:{folder}/secrets:ro"]
        return self.builder.run(name, *options, command=arguments)


def _empty_packages(root: Path) -> None:
    """An apt repository in the stand-in, of empty packages with the names of Ubuntu's Pythons."""
    place = root / "opt/stand-in"
    lines = []
    for name in PYTHONS:
        about = (
            f"Package: {name}\nVersion: 3.12\nArchitecture: all\nMaintainer: tests\n"
            "Description: stands in for Ubuntu's\n"
        )
        control = place / name / "DEBIAN/control"
        control.parent.mkdir(parents=True)
        control.write_text(about)
        file = place / f"{name}.deb"
        subprocess.run(["dpkg-deb", "--build", place / name, file], check=True, capture_output=True)
        data = file.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        lines.append(f"{about}Filename: ./{file.name}\nSize: {len(data)}\nSHA256: {digest}\n")
    (place / "Packages").write_text("\n".join(lines))
    source = root / "etc/apt/sources.list.d/stand-in.list"
    source.write_text("deb [trusted=yes] file:/opt/stand-in ./\n")
