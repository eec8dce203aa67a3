"""Times of sppfast beside its peers, on the same work, in one process: what ``sppfast bench`` prints.

Each peer's result is compared with sppfast's before anything is timed. The calls take turns, all with the same number
of threads, and a time is the median of the rounds. The bound is the memory traffic that nobody can avoid, timed in
the same turns.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import statistics
from pathlib import Path
from typing import Any

import numpy as np

import sppfast

from ..cores import available_cores
from ..extras import require
from ..files import replacing
from ..progress import tracked
from . import peers, work
from .devices import Cpu, Device, Gpu
from .report import draw, print_table
from .timing import Call, samples

HINT = 'no other library to compare with: pip install "sppfast[bench]"'


def run(
    pattern: str = "",
    *,
    every: bool = False,
    seconds: float = 2.0,
    threads: int | None = None,
    gpu: bool = False,
    json_path: Path | None = None,
    plot_path: Path | None = None,
) -> None:
    """Time the rows whose name the pattern matches, and print a table.

    Parameters
    ----------
    pattern : str
        A regular expression.
    every : bool
        Whether all rows are timed, or the short table's.
    seconds : float
        For each row, where its slowest call leaves it at that.
    threads : int, optional
        Of each library on the CPU; all cores that the process may use if not given.
    gpu : bool
        Whether to run on the GPU, on arrays of CuPy.
    json_path, plot_path : Path, optional
        Files for all figures, and for a picture of the ratios (PNG).
    """
    rows = [row for row in work.ROWS if (row.brief or every) and re.search(pattern, row.name)]
    if not rows:
        names = "; ".join(row.name for row in work.ROWS)
        raise ValueError(f"--rows {pattern}: no row has such a name; with --all there are: {names}")
    if plot_path:
        require("sppfast bench --plot", "bench", "matplotlib")
    if gpu:
        require("sppfast bench --gpu", "bench", "cupy")
    for path in filter(None, (json_path, plot_path)):
        path.parent.resolve(strict=True)  # a minute before it is written
    device = Gpu() if gpu else Cpu(threads or available_cores())
    peers.load(device)
    measured: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "device": device.name,
        "threads": device.threads,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "versions": sppfast.versions(),
        "rows": [measure(row, device, seconds) for row in tracked(rows, "rows", "bench")],
    }
    print_table(measured)
    if not set(peers.installed(device)) - {"C"}:
        print(HINT)
    if json_path:
        with replacing(json_path) as part:
            part.write_text(json.dumps(measured, indent=2))
    if plot_path:
        with replacing(plot_path) as part:
            draw(measured, part)


def measure(row: work.Row, device: Device, seconds: float) -> dict[str, Any]:
    """Time one row.

    Parameters
    ----------
    row : Row
    device : Cpu or Gpu
    seconds : float

    Returns
    -------
    dict
        ``ms`` of each call; ``ratio``: each peer's time over sppfast's with a fresh result, and sppfast's with
        ``out=`` over the bound's; ``differ``: the share of values in which a peer differs from sppfast; ``failed``:
        why a peer that is installed is missing.
    """
    case = row.build(device)
    calls: dict[str, Call] = {"sppfast": case.ours, "out=": lambda: case.ours(out=case.out)}
    differ, failed = {}, {}
    expected = device.host(case.ours())
    for name in peers.installed(device):
        if name not in case.peers:
            continue
        try:
            calls[name] = case.peers[name]()
            differ[name] = _differing(device.host(calls[name]()), expected, case.tolerance)
        except Exception as error:  # whatever is wrong with a peer, the others can be timed
            calls.pop(name, None)
            failed[name] = f"{type(error).__name__}: {error}"
    found = samples(calls | {"bound": case.bound}, seconds, device.wait)
    ms = {name: 1e3 * statistics.median(times) for name, times in found.items()}
    ratio = {name: ms[name] / ms["sppfast"] for name in differ} | {"bound": ms["out="] / ms["bound"]}
    return {"row": row.name, "ms": ms, "ratio": ratio, "differ": differ, "failed": failed}


def _differing(result: Any, expected: Any, tolerance: float) -> float:
    """Share of the values that differ."""
    same = np.abs(result.reshape(expected.shape) - expected) <= tolerance
    return 1 - float(np.mean(same))
