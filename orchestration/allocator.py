"""How the C library keeps memory, for processes that run many small queries.

DuckDB makes and drops the state of every operator of a plan at each run. What is dropped goes back
to glibc, by default all but seven pieces of a size by the slow way; to keep more saves a sixth of
the processor time of a small batch. It is read when a program starts, so it is in the environment.
"""

from __future__ import annotations

import os
import platform
import sys

VARIABLE = "GLIBC_TUNABLES"
KEPT = "glibc.malloc.tcache_count=4000"  # pieces of each size up to a kilobyte, for each thread
# Up to 32 MB stay in the process's heap, and 256 MB of free heap are not given back at once.
HEAP = "glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=268435456"


def keep_memory() -> None:
    """Begin this program again with these settings, unless it has some or the C library is another.

    The process stays the same. To be called before anything was opened.
    """
    if VARIABLE in os.environ or platform.libc_ver()[0] != "glibc":
        return
    os.environ[VARIABLE] = f"{KEPT}:{HEAP}"
    os.execv(sys.executable, sys.orig_argv)  # noqa: S606 - this program itself
