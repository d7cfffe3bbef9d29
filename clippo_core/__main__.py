"""`python -m clippo_core`, which is the command `clippo` (`clippo_core/cli/`)."""

from __future__ import annotations

import sys

from clippo_core.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
