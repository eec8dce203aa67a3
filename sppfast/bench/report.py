"""The table and the picture of what was measured."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from .peers import NEEDS

Measured = dict[str, Any]

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")  # of Okabe and Ito: for all eyes
MISSING = "not installed"
NOTE = """\
ms: medians of calls in turn; after a peer's time, how many times sppfast's it is (out= writes into a given result).
bound: the memory traffic alone (pool reads the map, RoI writes the result, a gradient does both); after it, how many
times as long sppfast with out= takes."""


def print_table(measured: Measured) -> None:
    """Print the times of all rows, and what was wrong."""
    rows, versions = measured["rows"], measured["versions"]
    threads = "on the GPU" if measured["device"] == "cuda" else f"{measured['threads']} threads each"
    packages = ("sppfast", "numpy", "torch", "torchvision", "openvino", "onnxruntime", "opencv-contrib-python-headless")
    there = [f"{name} {versions[name]}" for name in packages if versions.get(name, MISSING) != MISSING]
    print(", ".join(there))
    load = "" if measured["load"] is None else f"; load average before: {measured['load']:.2f}"
    print(f"{versions['cpu']}, {threads}{load}\n")
    names = [name for name in NEEDS if any(name in row["ms"] for row in rows)]
    widest = max(len(row["row"]) for row in rows)
    print(f"{'ms':<{widest}}{'sppfast':>9}{'out=':>7}{''.join(f'{name:>13}' for name in (*names, 'bound'))}")
    for row in rows:
        ms = row["ms"]
        others = "".join(f"{_cell(row, name):>13}" for name in (*names, "bound"))
        print(f"{row['row']:<{widest}}{_short(ms['sppfast']):>9}{_short(ms['out=']):>7}{others}")
    print(f"\n{NOTE}")
    for row in rows:
        for name, share in row["differ"].items():
            if share:
                print(f"{row['row']}: {name}: {share:.3%} of the values differ from sppfast's")
        for name, reason in row["failed"].items():
            print(f"{row['row']}: {name} was left out: {' '.join(reason.split())[:200]}")


def _cell(row: Measured, name: str) -> str:
    if name not in row["ms"]:
        return "-"
    return f"{_short(row['ms'][name])} {_short(row['ratio'][name], 1):>5}x"


def _short(value: float, most: int = 3) -> str:
    """Write a number with three digits, or all that are whole, and no more than `most` after the point."""
    return f"{value:.{min(most, max(0, 2 - math.floor(math.log10(value))))}f}"


def draw(measured: Measured, path: Path) -> None:
    """Draw the ratios of all rows.

    Parameters
    ----------
    measured : dict
        What ``--json`` writes.
    path : Path
        A PNG.
    """
    from matplotlib.figure import Figure

    rows = measured["rows"][::-1]
    names = [name for name in NEEDS if any(name in row["ms"] for row in rows)]
    figure = Figure(figsize=(6.5, 1.3 + 0.5 * len(rows)), layout="constrained")  # read on a telephone too
    axes = figure.subplots()
    height = 0.8 / max(2, *(len(row["differ"]) for row in rows))
    for name, colour in zip(names, COLOURS, strict=False):
        found = [(_place(row, name, i, height), row["ratio"][name]) for i, row in enumerate(rows) if name in row["ms"]]
        places, ratios = zip(*found, strict=True)
        bars = axes.barh(places, [ratio - 1 for ratio in ratios], height, left=1, color=colour, label=name)
        axes.bar_label(bars, [f"{ratio:.1f}" for ratio in ratios], padding=2, fontsize=6.5)
    bounds = [1 / row["ratio"]["bound"] for row in rows]
    axes.scatter(bounds, range(len(rows)), marker="|", s=150, color="black", label="memory traffic alone")
    axes.axvline(1, color="black", linewidth=1, label="sppfast")
    axes.set(
        xscale="log",
        yticks=range(len(rows)),
        yticklabels=[f"{r['row']}\n{_short(r['ms']['sppfast'])} ms" for r in rows],
    )
    axes.set_xlabel("times as long as sppfast takes")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.tick_params(axis="y", labelsize=8)
    axes.margins(x=0.1, y=0.02)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    figure.savefig(path, format="png", dpi=150)


def _place(row: Measured, name: str, middle: int, height: float) -> float:
    """Find a bar's place among those of its row, the first on top."""
    there = [name for name in NEEDS if name in row["ms"]]
    return middle + ((len(there) - 1) / 2 - there.index(name)) * height
