"""Time the operators on a GPU, beside torch and torchvision where they are installed.

    python benchmarks/gpu.py

First the copy bandwidth of the card is measured, then every operator: by CUDA events, medians of rounds in which the
contestants take turns, on inputs that rotate through more memory than the second-level cache has; also the host's time
of each call, and the kernels that it launches. What a peer gives is compared with sppfast's result before anything is
timed. Prints a table, and writes a JSON file to ``benchmarks/results``. Bytes are those that must be moved: the inputs
read once, the results written once. Rows stop being added after four minutes; needs CuPy, NumPy, Numba and a GPU.
"""

from __future__ import annotations

import datetime
import importlib.util
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import sppfast

RESULTS = Path(__file__).with_name("results")
ROUNDS = 9
SAMPLE = 0.02  # seconds of calls in a row, at least
MOST_COPIES = 64  # of inputs
MOST_COMPARED = 2**24  # values
LONGEST = 240.0  # seconds after which no further row begins
LEVELS = (6, 3, 2, 1)

TOLERANCES = {"float32": 1e-5, "float16": 2e-2}  # torch adds up in the dtype of the maps

Run = Callable[[Any], Any]  # with one of the rotating inputs


@dataclass
class Row:
    """A piece of work: inputs, what is timed on them, and the bytes that must be moved."""

    name: str
    inputs: list[Any]
    runs: dict[str, Run]
    bytes: int
    tolerance: float = 0.0  # of a peer's values, relative to the largest
    seconds: dict[str, float] = field(default_factory=dict)
    host: dict[str, float] = field(default_factory=dict)
    differ: dict[str, float] = field(default_factory=dict)
    launches: list[str] = field(default_factory=list)


def have(module: str) -> bool:
    """Tell whether a module is installed, and finds the card."""
    if importlib.util.find_spec(module) is None or importlib.util.find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())


def windows(rng: np.random.Generator, count: int, maps: int, height: int, width: int) -> np.ndarray[Any, Any]:
    """Draw rois (count, 5) of images of 16 times the maps' size, an eighth to a half of a side long."""
    size = np.array([width, height]) * 16
    extent = rng.uniform(1 / 8, 1 / 2, (count, 2)) * size
    start = rng.uniform(0, 1, (count, 2)) * (size - extent)
    corners = np.round([start, start + extent])  # which float16 has, too, as torchvision wants it
    return np.column_stack([rng.integers(0, maps, count), *corners]).astype(np.float32)


def copies(cupy: Any, shape: tuple[int, ...], dtype: str, cache: int) -> list[Any]:
    """Make inputs that together are twice as large as a cache."""
    rng = np.random.default_rng(0)
    first = cupy.asarray(rng.standard_normal(shape, dtype=np.float32).astype(dtype))
    return [first] + [first.copy() for _ in range(min(2 * cache // first.nbytes, MOST_COPIES - 1))]


def pool_rows(cupy: Any, cache: int, scale: int) -> Iterator[Row]:
    """Whole maps, forward and backward."""
    shapes = (((64, 256, 13, 13), (4, 2, 1)), ((64, 256, 38, 63), LEVELS), ((8, 64, 512, 512), (4, 2, 1)))
    for (shape, levels), dtype in itertools.product(shapes, ("float32", "float16")):
        shape = (max(shape[0] // scale, 1), max(shape[1] // scale, 1), *shape[2:])
        inputs = copies(cupy, shape, dtype, cache)
        y, places = sppfast.pool(inputs[0], levels, return_indices=True)
        grad = cupy.ones_like(y)
        for mode in ("max", "avg"):
            runs = {"sppfast": lambda x, of=levels, m=mode: sppfast.pool(x, of, mode=m)}
            back = {"sppfast": lambda x, of=levels, m=mode, g=grad, i=places: _pull_back(g, x, of, m, i)}
            if have("torch"):
                runs["torch"] = _torch_pool(levels, mode)
                back["torch"] = _torch_backward(_torch_pool(levels, mode), grad)
            what = f"{mode}, {shape}, levels {levels}, {dtype}"
            moved = inputs[0].nbytes + y.nbytes
            near = TOLERANCES[dtype]
            yield Row(f"pool {what}", inputs, runs, moved, near if mode == "avg" else 0)
            read = moved + (places.nbytes if mode == "max" else 0)
            yield Row(f"pool_backward {what}", inputs, back, read, near)


def _pull_back(grad: Any, x: Any, levels: Any, mode: str, indices: Any) -> Any:
    return sppfast.pool_backward(grad, x, levels, mode=mode, indices=indices if mode == "max" else None)


def roi_rows(cupy: Any, cache: int, scale: int) -> Iterator[Row]:
    """Windows of maps, forward and backward."""
    shape, count = (2, max(256 // scale, 1), 38, 63), 2000 // scale
    rois = cupy.asarray(windows(np.random.default_rng(0), count, 2, 38, 63))
    for dtype in ("float32", "float16"):
        inputs = copies(cupy, shape, dtype, cache)
        for name, levels, options in (
            ("roi_pool", (7,), {"rounding": "fast_rcnn"}),
            ("roi_pool", LEVELS, {"rounding": "sppnet"}),
            ("roi_align", (7,), {"sampling_ratio": 2}),
        ):
            forward, backward = getattr(sppfast, name), getattr(sppfast, f"{name}_backward")
            y = forward(inputs[0], rois, levels, **options)
            grad, given = cupy.ones_like(y), dict(options)
            if name == "roi_pool":
                given["indices"] = forward(inputs[0], rois, levels, return_indices=True, **options)[1]
            runs = {"sppfast": lambda x, f=forward, of=levels, o=options: f(x, rois, of, **o)}
            back = {"sppfast": lambda x, b=backward, g=grad, of=levels, o=given: b(g, x, rois, of, **o)}
            if have("torchvision") and levels == (7,):
                runs["torchvision"] = _torchvision(name, rois)
                back["torchvision"] = _torch_backward(_torchvision(name, rois), grad)
            what = f"{count} windows, map {shape}, levels {levels}, {dtype}"
            moved = inputs[0].nbytes + rois.nbytes + y.nbytes
            near = TOLERANCES[dtype]
            yield Row(f"{name} {what}", inputs, runs, moved, near if name == "roi_align" else 0)
            read = moved + (given["indices"].nbytes if "indices" in given else 0)
            yield Row(f"{name}_backward {what}", inputs, back, read, near)


def _torch_pool(levels: tuple[int, ...], mode: str) -> Run:
    import torch

    pool = getattr(torch.nn.functional, f"adaptive_{mode}_pool2d")
    return lambda x: torch.cat([pool(torch.as_tensor(x), n).flatten(1) for n in levels], 1)


def _torchvision(name: str, rois: Any) -> Run:
    import torch
    from torchvision import ops

    own = torch.as_tensor(rois)
    options = {"sampling_ratio": 2, "aligned": True} if name == "roi_align" else {}
    operator = getattr(ops, name)
    return lambda x: operator(torch.as_tensor(x), own.to(torch.as_tensor(x).dtype), 7, 1 / 16, **options)


def _torch_backward(forward: Run, grad: Any) -> Run:
    """Time the backward pass alone: the graph of each input is kept."""
    import torch

    graphs: dict[int, Any] = {}

    def run(x: Any) -> Any:
        if id(x) not in graphs:
            leaf = torch.as_tensor(x).detach().requires_grad_()
            y = forward(leaf)
            graphs[id(x)] = leaf, y, torch.as_tensor(grad).reshape(y.shape)
        leaf, y, own = graphs[id(x)]
        return torch.autograd.grad(y, leaf, own, retain_graph=True)[0]

    return run


def compare(row: Row) -> None:
    """Compare each peer's result with sppfast's, by the largest difference; a peer that fails is not timed."""
    import cupy

    def fetch(run: Run) -> Any:
        result = run(row.inputs[0])
        array = result if isinstance(result, cupy.ndarray) else cupy.from_dlpack(result.detach())
        return cupy.asnumpy(array.reshape(-1)[:MOST_COMPARED]).astype(np.float64)

    want = fetch(row.runs["sppfast"])
    for name in [name for name in row.runs if name != "sppfast"]:
        try:
            difference = np.abs(fetch(row.runs[name]) - want).max()
        except Exception as error:  # whatever is wrong with a peer, the others can be timed
            print(f"{row.name}: {name} is left out: {type(error).__name__}: {error}")
            del row.runs[name]
            continue
        row.differ[name] = float(difference / max(np.abs(want).max(), 1e-30))
        if not row.differ[name] <= row.tolerance:
            print(f"{row.name}: {name} DIFFERS by {row.differ[name]:.1e} of the largest value")


@contextmanager
def noted_launches() -> Iterator[list[str]]:
    """List the kernels that sppfast launches meanwhile."""
    from sppfast.cuda import gradients, launch, reduce, windows

    noted: list[str] = []
    modules = [module for module in (gradients, launch, reduce, windows) if hasattr(module, "launch")]
    before = launch.launch

    def note(kernel: str, *args: Any, **options: Any) -> None:
        noted.append(kernel)
        before(kernel, *args, **options)

    for module in modules:
        module.launch = note  # type: ignore[attr-defined]
    try:
        yield noted
    finally:
        for module in modules:
            module.launch = before  # type: ignore[attr-defined]


def measure(row: Row, elapsed: Callable[[Run, list[Any], int], float] | None = None) -> None:
    """Compare, count the launches, and time a row: on the device, unless told otherwise, and on the host."""
    compare(row)
    with noted_launches() as noted:
        row.runs["sppfast"](row.inputs[0])
    row.launches = noted
    time_row(row, elapsed or elapsed_on_device)
    row.host = {name: statistics.median(host_times(run, row.inputs)) for name, run in row.runs.items()}


def host_times(run: Run, inputs: list[Any], rounds: int = ROUNDS) -> list[float]:
    """Seconds until a call returns that finds the device idle."""
    import cupy

    found = []
    for i in range(rounds):
        cupy.cuda.Device().synchronize()
        found.append(elapsed_on_host(run, inputs[i % len(inputs) :], 1))
    cupy.cuda.Device().synchronize()
    return found


def time_row(row: Row, elapsed: Callable[[Run, list[Any], int], float], rounds: int = ROUNDS) -> None:
    """Fill in the medians of a row: the contestants take turns."""
    counts = {}
    for name, run in row.runs.items():
        elapsed(run, row.inputs, len(row.inputs))  # compiles, and touches all memory
        counts[name] = max(len(row.inputs), int(SAMPLE / max(elapsed(run, row.inputs, len(row.inputs)), 1e-6)))
    found: dict[str, list[float]] = {name: [] for name in row.runs}
    for _ in range(rounds):
        for name, run in row.runs.items():
            found[name].append(elapsed(run, row.inputs, counts[name]))
    row.seconds = {name: statistics.median(times) for name, times in found.items()}


def elapsed_on_device(run: Run, inputs: list[Any], count: int) -> float:
    """Seconds of a call on the device, on the average of `count` calls."""
    import cupy

    begin, end = cupy.cuda.Event(), cupy.cuda.Event()
    begin.record()
    for i in range(count):
        run(inputs[i % len(inputs)])
    end.record()
    end.synchronize()
    return float(cupy.cuda.get_elapsed_time(begin, end)) / 1000 / count


def elapsed_on_host(run: Run, inputs: list[Any], count: int) -> float:
    """Seconds until a call returns, whether or not the device is done."""
    begin = time.perf_counter()
    for i in range(count):
        run(inputs[i % len(inputs)])
    return (time.perf_counter() - begin) / count


def small_row(cupy: Any) -> Row:
    """One small call, whose cost is the host's."""
    x = cupy.asarray(np.ones((1, 8, 13, 13), np.float32))
    runs: dict[str, Run] = {"sppfast": lambda x: sppfast.pool(x, (4, 2, 1))}
    if have("torch"):
        runs["torch"] = _torch_pool((4, 2, 1), "max")
    return Row("host time of small calls in a row, pool (1, 8, 13, 13)", [x], runs, x.nbytes)


def copy_row(cupy: Any, size: int) -> Row:
    """The bound: a copy, read once and written once."""
    source, target = cupy.zeros(size, np.uint8), cupy.zeros(size, np.uint8)
    return Row("copy", [source], {"cupy": lambda x: cupy.copyto(target, x)}, 2 * size)


def report(row: Row, bandwidth: float) -> dict[str, Any]:
    """Describe a row: times, bandwidth, ratios."""
    own = row.seconds["sppfast"]
    return {
        "name": row.name,
        "milliseconds": {name: round(1000 * seconds, 5) for name, seconds in row.seconds.items()},
        "host_microseconds": {name: round(1e6 * seconds, 2) for name, seconds in row.host.items()},
        "launches": row.launches,
        "bytes": row.bytes,
        "fraction_of_copy": round(row.bytes / own / bandwidth, 3),
        "ratio": {name: round(seconds / own, 2) for name, seconds in row.seconds.items() if name != "sppfast"},
        "differ": row.differ,
        "tolerance": row.tolerance,
    }


def machine(cupy: Any) -> dict[str, Any]:
    """Describe the card and the software."""
    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.runtime.getDevice())
    return {
        "date": datetime.date.today().isoformat(),
        "card": properties["name"].decode(),
        "compute_capability": f"{properties['major']}.{properties['minor']}",
        "memory": properties["totalGlobalMem"],
        "l2_cache": properties["l2CacheSize"],
        "driver": cupy.cuda.runtime.driverGetVersion(),
        "runtime": cupy.cuda.runtime.runtimeGetVersion(),
        "versions": sppfast.versions(),
    }


def print_row(found: dict[str, Any]) -> None:
    """Print a line of the table."""
    times = "  ".join(f"{name} {value:9.4f} ms" for name, value in found["milliseconds"].items())
    ratios = "  ".join(f"{value}x {name}" for name, value in found["ratio"].items())
    times += f"  {len(found['launches'])} launches"
    print(f"{found['name']:95}  {times:40}  {100 * found['fraction_of_copy']:5.1f}% of copy  {ratios}", flush=True)


def main() -> None:
    """Measure everything, print it, and write it down."""
    try:
        import cupy

        about = machine(cupy)
    except Exception as error:  # no CuPy, no driver, no device
        sys.exit(f"benchmarks/gpu.py needs CuPy and a GPU: {error}")
    begin, cache = time.perf_counter(), about["l2_cache"]
    copy = copy_row(cupy, min(2**30, about["memory"] // 8))
    time_row(copy, elapsed_on_device)
    bandwidth = copy.bytes / copy.seconds["cupy"]
    print(f"{about['card']}: copies {bandwidth / 1e9:.0f} GB/s, read and written")
    found, left_out = [], []
    from sppfast.cuda import unchecked

    for row in itertools.chain([small_row(cupy)], pool_rows(cupy, cache, 1), roi_rows(cupy, cache, 1)):
        if time.perf_counter() - begin > LONGEST:
            left_out.append(row.name)
            continue
        with unchecked():  # torchvision does not wait for the device to check windows, either
            measure(row, elapsed_on_host if row.name.startswith("host") else None)
        found.append(report(row, bandwidth))
        print_row(found[-1])
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"gpu-{about['card'].lower().replace(' ', '-')}-{about['date']}.json"
    about |= {"seconds": round(time.perf_counter() - begin), "copy_bytes_per_second": round(bandwidth)}
    path.write_text(json.dumps({**about, "rows": found, "left_out": left_out}, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
