"""An environment for foreign packages: this one's packages are seen in it, and theirs are installed
beside them, so that the lock does not grow for a test.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest
from conftest import PROJECT


def foreign_python(*packages: str) -> Path:
    """The Python of an environment with `packages`; the test is skipped where they cannot be had.

    It is made below CLIPPO_TEST_ENVIRONMENTS, or the system's folder of temporary files, and found
    there again.
    """
    base = os.environ.get("CLIPPO_TEST_ENVIRONMENTS") or tempfile.gettempdir()
    own = sysconfig.get_paths()["purelib"]
    name = hashlib.sha256(" ".join((own, *packages)).encode()).hexdigest()[:12]
    folder = Path(base) / f"clippo-test-{os.getuid()}-{name}"
    python, done = folder / "bin" / "python", folder / "installed"
    if done.exists():
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True, timeout=300)
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    (folder / "lib" / version / "site-packages" / "lock.pth").write_text(own + "\n")
    words = [str(python), "-m", "pip", "install", "--quiet", *packages]
    found = subprocess.run(words, capture_output=True, text=True, timeout=1200)
    if found.returncode:
        last = (found.stderr.strip().splitlines() or ["no word"])[-1]
        pytest.skip(f"{', '.join(packages)} cannot be installed here: {last}")
    done.touch()
    return python


def run_foreign(python: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run words in that environment, with the project and the tests' support on the path; its
    output is shown where it fails.
    """
    path = os.pathsep.join([str(PROJECT), str(PROJECT / "tests" / "support")])
    done = subprocess.run(
        [str(python), *words],
        capture_output=True,
        text=True,
        timeout=900,
        env=os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done
