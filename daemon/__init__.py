"""The daemon: configuration, supervisor, control socket, command line, logging, systemd notification."""

from __future__ import annotations

import os

# numpy's BLAS would start one thread for each core in every process, and a process with threads cannot be forked
# safely; nothing here multiplies matrices. It reads these when numpy is first imported, by the modules of this package.
for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
