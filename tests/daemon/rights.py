"""Root as a user without root's rights: what belongs to another user is closed to it, as to any other."""

from __future__ import annotations

import ctypes
import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

PR_CAPBSET_DROP = 24
OVERRIDING = (1, 2, 3)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER
NOBODY = 65_534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's files: not tested")
_libc = ctypes.CDLL(None, use_errno=True)


def give_away(path: Path) -> str:
    """Make a file or folder another user's, closed to all others; returns the user's name."""
    try:
        os.chown(path, NOBODY, NOBODY)
    except OSError as error:
        pytest.skip(f"this root cannot give a file to another user: {error}")
    path.chmod(0o750 if path.is_dir() else 0o600)
    return pwd.getpwuid(NOBODY).pw_name


def tickring_without_rights(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command by a user whom rights on files bind, as they do not bind root."""
    command = [sys.executable, "-m", "tickring", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, preexec_fn=_give_up_rights)


def _give_up_rights() -> None:
    for capability in OVERRIDING:  # what root has after an exec is what this set still holds
        if _libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
            os._exit(99)
