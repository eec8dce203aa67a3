"""The cores that this process may use."""

from __future__ import annotations

import math
import os
import sys
from functools import cache
from pathlib import Path


def available_cores() -> int:
    """Count the cores that this process may use: by its affinity, and by the quota of its control group.

    The affinity is asked for in every call. The quota is read once in a process.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _quota())


@cache
def _quota() -> int:
    return cgroup_cores(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))


def cgroup_cores(membership: Path, root: Path) -> int:
    """Count the cores that control groups of Linux, version 2 or 1, leave a process, rounded up.

    Parameters
    ----------
    membership : Path
        The process's groups, ``/proc/self/cgroup``.
    root : Path
        Where the tree of groups is mounted, of version 1 the trees of all controllers.

    Returns
    -------
    int
        The least quota of the process's groups and those around them, at least 1; ``sys.maxsize`` where there is none.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return sys.maxsize
    cores = [sys.maxsize]
    for number, controllers, name in (line.split(":", 2) for line in lines):
        if number == "0":
            tree, files = root, ["cpu.max"]
        elif "cpu" in controllers.split(","):
            tree, files = root / "cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        group = Path(name.lstrip("/"))
        cores += [_quota_of(path, files) for path in (tree / group, *(tree / parent for parent in group.parents))]
    return min(cores)


def _quota_of(group: Path, files: list[str]) -> int:
    """Count the cores of one group; its files hold microseconds, of all cores together in each period."""
    try:
        quota, period = map(int, " ".join((group / file).read_text() for file in files).split())
    except (OSError, ValueError):  # no such file, or no quota: "max"
        return sys.maxsize
    return max(1, math.ceil(quota / period)) if quota > 0 else sys.maxsize  # -1: none
