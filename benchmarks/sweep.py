"""How the time of a call grows with each size of its work, and whether it jumps anywhere.

    python benchmarks/sweep.py [--rows REGEX] [--seconds S] [--from-memory] [--json FILE] [--plots DIR]

Each curve changes one size and takes its variants in turn at each point; a time is the least of the rounds, with
`out=`. Beside it stand nanoseconds per element (of the map for `pool`, of the result for windows), and how many times
the bound it is: the map read and the result written once, at the bandwidths that are measured first. A point is marked
`!` where it is more than three times off the line between its neighbours, both axes logarithmic, or takes more than
three times as long as the first variant; a dtype, where it takes three times as long as float32 for each byte. The same
maps are pooled again and again, from a cache if one holds them; `--from-memory` takes so many of them in turn that none
does.
"""

import argparse
import itertools
import json
import math
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import sppfast
from sppfast.bench.devices import Cpu
from sppfast.bench.timing import samples
from sppfast.bench.work import maps_and_rois
from sppfast.cores import available_cores
from sppfast.progress import progress

JUMP = 3.0
STRIDE = 16
BANDWIDTH_BYTES = 2**28
MEMORY_BYTES = 2**27  # of maps in turn: more than caches hold
MOST_COPIES = 2**10
THREADS = available_cores()


@dataclass(frozen=True)
class Work:
    """One call."""

    operator: str = "pool"
    batch: int = 1
    channels: int = 256
    size: tuple[int, int] = (38, 63)
    windows: int = 300  # of all maps together
    levels: tuple[int, ...] = (4, 2, 1)
    dtype: str = "float32"
    layout: str = "NCHW"
    mode: str = "max"
    return_indices: bool = False
    workers: int = THREADS

    def build(self, memory: int = 0) -> tuple[Callable[[], Any], int, int, int]:
        """Build the call, with so many bytes of maps in turn; count its elements, and the bytes it reads and writes."""
        x, rois = maps_and_rois(self.windows, self.size, STRIDE, self.channels)
        x = as_dtype(np.repeat(x, self.batch, axis=0), self.dtype)
        if self.layout == "NHWC":
            x = np.ascontiguousarray(np.moveaxis(x, 1, -1))
        options = {"levels": self.levels, "mode": self.mode, "layout": self.layout, "workers": self.workers}
        options |= {"return_indices": True} if self.return_indices else {}
        rest = []
        if self.operator != "pool":
            rois[:, 0] = np.arange(self.windows) * self.batch // self.windows
            rest.append(rois)
            options["geometry"] = STRIDE
        operator = getattr(sppfast, self.operator)
        out = operator(x, *rest, **options)
        results = out if self.return_indices else (out,)
        elements, written = x.size if self.operator == "pool" else results[0].size, sum(y.nbytes for y in results)
        maps = itertools.cycle([x, *(x.copy() for _ in range(min(memory // x.nbytes, MOST_COPIES)))])
        return lambda: operator(next(maps), *rest, out=out, **options), elements, x.nbytes, written


def as_dtype(x: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "float32":
        return x
    if dtype == "bfloat16":
        import ml_dtypes

        return x.astype(ml_dtypes.bfloat16)
    return (30 * x + 100 * (dtype == "uint8")).astype(dtype)


@dataclass(frozen=True)
class Curve:
    """Changes one field of the work; each variant changes others."""

    name: str
    base: Work
    axis: str
    values: tuple[Any, ...]
    variants: dict[str, dict[str, Any]] = field(default_factory=lambda: {"": {}})


CHANNELS = (1, 3, 16, 64, 100, 257, 512, 2048)
SIDES = (1, 2, 4, 7, 13, 25, 50, 100, 200, 400, 700, 1024)
ABOUT_POWERS = (30, 32, 34, 60, 64, 68, 124, 128, 132, 250, 256, 262)  # of 2, where lines share few sets of a cache
WINDOWS = (1, 2, 5, 10, 30, 100, 300, 1000, 2000, 5000, 20_000)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
LEVELS = ((1,), (2,), (3,), (4,), (5,), (6,), (8,), (11,), (16,), (24,), (32,))
DTYPES = ("float32", "float64", "float16", "bfloat16", "uint8", "int8")
MODES = {"max": {}, "avg": {"mode": "avg"}, "indices": {"return_indices": True}}
LAYOUTS = {"NCHW": {}, "NHWC": {"layout": "NHWC"}}
THREAD_COUNTS = {f"{THREADS} threads": {}, "1 thread": {"workers": 1}}
POOL, ROI_POOL = Work(), Work("roi_pool", levels=(7,))
ROI_ALIGN = Work("roi_align", levels=(7,), mode="avg")


def square(sides: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    return tuple((side, side) for side in sides)


def curves_of(base: Work, modes: dict, dtypes: tuple[str, ...]) -> list[Curve]:
    """What every operator is asked."""
    name = base.operator
    few, parts = replace(base, channels=16), replace(base, channels=64, levels=(16,), windows=30)
    of_dtypes = {dtype: {"dtype": dtype} for dtype in dtypes[::2]}
    return [
        Curve(f"{name}, map sides, 16 channels", few, "size", square(SIDES), modes),
        Curve(f"{name}, map sides, 256 channels", base, "size", square(SIDES[:-3]), THREAD_COUNTS),
        Curve(f"{name}, map sides, 3 channels", replace(base, channels=3), "size", square(SIDES), LAYOUTS),
        Curve(f"{name}, map sides about powers of 2", parts, "size", square(ABOUT_POWERS), of_dtypes),
        Curve(f"{name}, map sides, layouts", replace(base, channels=128), "size", square(SIDES[:-3]), LAYOUTS),
        Curve(f"{name}, channels", base, "channels", CHANNELS, LAYOUTS),
        Curve(f"{name}, channels, maps of 7 x 7", replace(base, size=(7, 7)), "channels", CHANNELS, modes),
        Curve(f"{name}, batch", replace(base, channels=64, size=(13, 13)), "batch", BATCHES, THREAD_COUNTS),
        Curve(f"{name}, batch, 3 channels", replace(base, channels=3, size=(38, 63)), "batch", BATCHES, THREAD_COUNTS),
        Curve(f"{name}, one level of n x n", base, "levels", LEVELS, modes),
        Curve(f"{name}, dtype", replace(base, batch=8, windows=2000), "dtype", dtypes, modes),
        Curve(f"{name}, dtype, NHWC", replace(base, batch=8, windows=2000, layout="NHWC"), "dtype", dtypes),
        Curve(f"{name}, threads", replace(base, batch=8, windows=2000), "workers", (1, 2, 4)),
    ]


def curves_of_windows(base: Work, modes: dict) -> list[Curve]:
    name, some, large = base.operator, replace(base, channels=64), replace(base, channels=64, size=(200, 304))
    return [
        Curve(f"{name}, windows", some, "windows", WINDOWS, modes),
        Curve(f"{name}, windows, 3 channels", replace(base, channels=3), "windows", WINDOWS, THREAD_COUNTS),
        Curve(f"{name}, windows, map of 200 x 304", large, "windows", WINDOWS, THREAD_COUNTS),
        Curve(f"{name}, windows, map of 200 x 304, layouts", large, "windows", WINDOWS[:-1], LAYOUTS),
    ]


FLOATS = DTYPES[:4]
CURVES = [
    *curves_of(POOL, MODES, DTYPES),
    *curves_of(ROI_POOL, MODES, DTYPES),
    *curves_of_windows(ROI_POOL, MODES),
    *curves_of(ROI_ALIGN, {"avg": {}, "max": {"mode": "max"}}, FLOATS),
    *curves_of_windows(ROI_ALIGN, {"avg": {}, "max": {"mode": "max"}}),
]


def place(axis: str, value: Any) -> float:
    """Where a value lies along the axis: cells of a map, bins of a pyramid."""
    if axis == "size":
        return float(math.prod(value))
    return float(sum(n * n for n in value)) if axis == "levels" else float(value)


def bandwidths() -> dict[str, float]:
    """Bytes per second of reading and of writing, all threads."""
    cpu, memory = Cpu(THREADS), np.ones(BANDWIDTH_BYTES // 4, np.float32)
    found = samples({"read": cpu.read(memory), "write": cpu.fill(memory)}, 1.0, cpu.wait)
    return {name: BANDWIDTH_BYTES / min(times) for name, times in found.items()}


def measure(curve: Curve, seconds: float, memory: int, bandwidth: dict[str, float], bar: Any) -> dict[str, Any]:
    points = []
    for value in curve.values:
        works = {name: replace(curve.base, **{curve.axis: value}, **v) for name, v in curve.variants.items()}
        built = {name: work.build(memory) for name, work in works.items()}
        found = samples({name: call for name, (call, *_) in built.items()}, seconds, lambda: None)
        for name, (_, elements, read, written) in built.items():
            t = min(found[name])
            bound = read / bandwidth["read"] + written / bandwidth["write"]
            points.append(
                {"value": value, "variant": name, "ms": 1e3 * t, "ns": 1e9 * t / elements, "bound_ms": 1e3 * bound,
                 "bytes": read + written}
            )  # fmt: skip
        bar.update(1)
    mark(curve, points)
    return {"curve": curve.name, "axis": curve.axis, "base": asdict(curve.base), "points": points}


def mark(curve: Curve, points: list[dict[str, Any]]) -> None:
    """Say of each point how far it is off the line between its neighbours, and of each variant off the first."""
    for name in curve.variants:
        line = [point for point in points if point["variant"] == name]
        for point, first in zip(line, points[:: len(curve.variants)], strict=True):
            point["to_first"] = point["ms"] / first["ms"]
        if curve.axis == "dtype":
            for point in line:
                point["to_float32_per_byte"] = point["ms"] / line[0]["ms"] * line[0]["bytes"] / point["bytes"]
            continue
        x = np.log([place(curve.axis, point["value"]) for point in line])
        y = np.log([point["ms"] for point in line])
        for i in range(1, len(line) - 1):
            between = np.interp(x[i], x[[i - 1, i + 1]], y[[i - 1, i + 1]])
            line[i]["off"] = float(np.exp(y[i] - between))


def marked(point: dict[str, Any]) -> bool:
    off = point.get("off", 1.0)
    return max(off, 1 / off, point.get("to_float32_per_byte", 1.0), point["to_first"]) > JUMP


def print_curve(curve: Curve, measured: dict[str, Any]) -> None:
    print(f"\n{curve.name}")
    head = "".join(f"{f'{name} ms':>16}{'ns':>9}{'bound':>8}{'first':>7}{'off':>6}  " for name in curve.variants)
    print(f"{curve.axis:>14}{head}")
    points = measured["points"]
    for i in range(0, len(points), len(curve.variants)):
        row = points[i : i + len(curve.variants)]
        cells = "".join(
            f"{p['ms']:>16.3f}{p['ns']:>9.3f}{p['ms'] / p['bound_ms']:>7.1f}x{p['to_first']:>7.2f}"
            f"{p.get('off', p.get('to_float32_per_byte', 1)):>6.2f}{' !' if marked(p) else '  '}"
            for p in row
        )
        print(f"{row[0]['value']!s:>14}{cells}")
    sys.stdout.flush()


def draw(measured: list[dict[str, Any]], folder: Path) -> None:
    """Draw the curves of each operator, with the bound of the first variant."""
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    for operator in ("pool", "roi_pool", "roi_align"):
        curves = [m for m in measured if m["base"]["operator"] == operator and m["axis"] != "dtype"]
        if not curves:
            continue
        rows = -(-len(curves) // 2)
        figure = Figure(figsize=(6.4, 2.3 * rows), layout="constrained")  # read on a telephone too
        panels = figure.subplots(rows, 2, squeeze=False).reshape(-1)
        for panel, curve in zip(panels, curves, strict=False):
            draw_curve(panel, curve)
        for panel in panels[len(curves) :]:
            panel.axis("off")
        figure.savefig(folder / f"cost-{operator}.png", dpi=130)


def draw_curve(panel: Any, curve: dict[str, Any]) -> None:
    axis = curve["axis"]
    names = list(dict.fromkeys(point["variant"] for point in curve["points"]))
    for name, colour in zip(names, ("#0072b2", "#e69f00", "#009e73"), strict=False):
        line = [point for point in curve["points"] if point["variant"] == name]
        x = [place(axis, point["value"]) for point in line]
        panel.plot(
            x, [point["ms"] for point in line], "o-", markersize=3, color=colour, label=name or curve["base"]["mode"]
        )
        if name == names[0]:
            panel.plot(x, [p["bound_ms"] for p in line], "--", color="grey", linewidth=1, label="bound")
    units = {"size": "cells of the map", "levels": "bins", "batch": "maps", "workers": "threads"}
    panel.set(xscale="log", yscale="log", xlabel=units.get(axis, axis), ylabel="ms")
    low, high = panel.get_ylim()
    panel.yaxis.set_major_formatter("{x:g}")
    panel.yaxis.set_minor_formatter("{x:g}" if high < 10 * low else "")
    if axis == "workers":
        panel.set_xticks(x, [f"{threads:g}" for threads in x])
        panel.set_xticks([], minor=True)
    panel.tick_params(which="both", labelsize=7)
    panel.set_title(curve["curve"], fontsize=9)
    panel.legend(fontsize=7, frameon=False)
    panel.grid(alpha=0.3)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="", metavar="REGEX", help="only the curves whose name matches")
    parser.add_argument("--seconds", type=float, default=0.25, metavar="S", help="for each point [0.25]")
    parser.add_argument("--from-memory", action="store_true", help="other maps in each call, which no cache holds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw the curves there")
    arguments = parser.parse_args()

    bandwidth = bandwidths()
    print(", ".join(f"{name} {value / 1e9:.1f} GB/s" for name, value in bandwidth.items()), f"with {THREADS} threads")
    curves = [curve for curve in CURVES if re.search(arguments.rows, curve.name)]
    measured, memory = [], MEMORY_BYTES if arguments.from_memory else 0
    with progress(sum(len(curve.values) for curve in curves), "points", "sweep") as bar:
        for curve in curves:
            measured.append(measure(curve, arguments.seconds, memory, bandwidth, bar))
            print_curve(curve, measured[-1])
    count = sum(marked(point) for curve in measured for point in curve["points"])
    print(f"\n{count} of {sum(len(curve['points']) for curve in measured)} points are marked")
    if arguments.json:
        found = {"versions": sppfast.versions(), "bandwidth": bandwidth, "curves": measured}
        arguments.json.write_text(json.dumps(found, indent=1))
    if arguments.plots:
        draw(measured, arguments.plots)
    return 0


if __name__ == "__main__":
    sys.exit(main())
