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
    """Count the cores that control groups (version 2 of Linux) leave a process, rounded up.

    Parameters
    ----------
    membership : Path
        The process's groups, ``/proc/self/cgroup``.
    root : Path
        Where the tree of groups is mounted.

    Returns
    -------
    int
        The least quota of the process's group and those around it, at least 1; ``sys.maxsize`` where there is none.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return sys.maxsize
    cores = [sys.maxsize]
    for group in (Path(line.removeprefix("0::/")) for line in lines if line.startswith("0::/")):
        for path in (root / group, *(root / parent for parent in group.parents)):
            try:
                quota, period = (path / "cpu.max").read_text().split()
                cores.append(max(1, math.ceil(int(quota) / int(period))))
            except (OSError, ValueError):  # no such file, or no quota: "max"
                continue
    return min(cores)
