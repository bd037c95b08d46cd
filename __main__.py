"""`python -m tickring`: the same as the command `tickring`."""

from __future__ import annotations

import sys

from .daemon.cli import main

if __name__ == "__main__":
    sys.exit(main())
