"""Time SPP-net and R-CNN on one photograph: the same body, the same windows, the same SVMs.

    python benchmarks/rcnn.py                  # all 2000 windows by R-CNN, some minutes
    python benchmarks/rcnn.py --rcnn-windows 100   # R-CNN on 100 of them, times 20

SPP-net computes the maps of the photograph once, at one scale or at five, and pools all windows out of them. R-CNN
warps each window to 224 x 224 pixels and runs the body on it. The body is the paper's ZF-5 with random weights, in ONNX
Runtime; the SVMs are random too: it is about time. The two take turns, and all times are means. The proposals are not
counted, as in the paper.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import sppfast
from sppfast import sppnet
from sppfast.progress import tracked
from sppfast.sppnet.images import resize
from sppfast.sppnet.window_features import WindowFeatures

LEVELS = (6, 3, 2, 1)
WINDOW = 224  # pixels: the side that windows are warped to, and that scales are chosen by
CLASSES = 20  # of VOC
SHARE = 0.1  # of the windows of each class that come to the suppression
PARTS = 10  # of R-CNN's windows
STAGES = ("convolution", "pooling", "scoring", "NMS")
SCALES = {"SPP-net, 1 scale": (688,), "SPP-net, 5 scales": (480, 576, 688, 864, 1200)}
# The paper's own figures, ZF-5 for both on a GeForce GTX Titan: seconds a picture, and how many times R-CNN takes.
PAPER = {"SPP-net, 1 scale": (0.142, 102), "SPP-net, 5 scales": (0.382, 38), "R-CNN": (14.46, 1)}
GOALS = {"SPP-net, 1 scale": 100, "SPP-net, 5 scales": 20}

Times = dict[str, float]


def load_photograph() -> np.ndarray:
    """A photograph of 375 x 500 pixels, the size of most of VOC's."""
    from sklearn.datasets import load_sample_image

    photograph = load_sample_image("china.jpg")
    width = len(photograph) * 4 // 3
    left = (photograph.shape[1] - width) // 2
    return resize(photograph[:, left : left + width], 375, 500)


class Clock:
    """Adds up the seconds of each stage."""

    def __init__(self) -> None:
        self.times: Times = dict.fromkeys(STAGES, 0.0)

    def __call__(self, stage: str, call: Callable, *arguments):
        """Call, and count the time for a stage."""
        start = time.perf_counter()
        result = call(*arguments)
        self.times[stage] += time.perf_counter() - start
        return result


def suppress(windows: np.ndarray, scores: np.ndarray) -> list[np.ndarray]:
    """What the suppression keeps of the best windows of each class."""
    least = np.quantile(scores, 1 - SHARE, axis=0)
    likely = [np.flatnonzero(scores[:, k] >= least[k]) for k in range(CLASSES)]
    return [likely[k][sppnet.nms(windows[likely[k]], scores[likely[k], k], 0.3)] for k in range(CLASSES)]


def spp_net(backbone: sppnet.OnnxBackbone, scales: tuple[int, ...], weights: np.ndarray, image, windows) -> Callable:
    """One detection by SPP-net, in a buffer that is used again."""
    features = WindowFeatures(backbone, backbone.geometry, LEVELS, scales, WINDOW)
    buffer = np.empty((len(windows), weights.shape[1]), np.float32)

    def call() -> Times:
        clock = Clock()
        maps = clock("convolution", features.maps, image)
        pooled = clock("pooling", features.pool, maps, windows, buffer)
        scores = clock("scoring", np.matmul, pooled, weights.T)
        clock("NMS", suppress, windows, scores)
        return clock.times

    return call


def warped(image: np.ndarray, windows: np.ndarray, batch: int) -> list[np.ndarray]:
    """Windows cut out and warped to squares, a batch at a time."""
    starts, stops = np.floor(windows[:, :2]).astype(int), np.ceil(windows[:, 2:]).astype(int)
    squares = [resize(image[y0:y1, x0:x1], WINDOW, WINDOW) for (x0, y0), (x1, y1) in zip(starts, stops, strict=True)]
    return [np.stack(squares[i : i + batch]) for i in range(0, len(squares), batch)]


def r_cnn_features(backbone: sppnet.OnnxBackbone, image, windows, batch: int, clock: Clock, out: np.ndarray) -> None:
    """Features of windows by R-CNN: the body runs on each."""
    squares = clock("convolution", warped, image, windows, batch)
    for i, part in enumerate(squares):
        maps = clock("convolution", backbone.batch, part)
        out[i * batch : i * batch + len(part)] = clock("pooling", sppfast.pool, maps, LEVELS)


def measure(backbone: sppnet.OnnxBackbone, weights, image, windows, count: int, batch: int) -> dict[str, Times]:
    """Times of each way; between parts of R-CNN's windows SPP-net detects once, so that all see the same load."""
    calls = {name: spp_net(backbone, scales, weights, image, windows) for name, scales in SCALES.items()}
    runs: dict[str, list[Times]] = {name: [] for name in calls}
    clock, features = Clock(), np.zeros((len(windows), weights.shape[1]), np.float32)
    chosen = np.random.default_rng(0).permutation(len(windows))[:count]
    for call in (*calls.values(), lambda: r_cnn_features(backbone, image, windows[:batch], batch, Clock(), features)):
        call()  # does not count
    for part in tracked(np.array_split(chosen, PARTS), "parts", "R-CNN and SPP-net in turn"):
        for name, call in calls.items():
            runs[name].append(call())
        r_cnn_features(backbone, image, windows[part], batch, clock, features)
    for stage in ("convolution", "pooling"):
        clock.times[stage] *= len(windows) / count
    scores = clock("scoring", np.matmul, features, weights.T)
    clock("NMS", suppress, windows, scores)
    means = {name: {stage: float(np.mean([run[stage] for run in r])) for stage in STAGES} for name, r in runs.items()}
    return means | {"R-CNN": clock.times}


def print_table(measured: dict[str, Times]) -> None:
    slowest = sum(measured["R-CNN"].values())
    print(f"{'ms':<20}{''.join(f'{stage:>13}' for stage in STAGES)}{'total':>11}{'pooling':>9}{'speed-up':>10}"
          f"{'goal':>6}{'paper: s':>10}{'speed-up':>10}")  # fmt: skip
    for name, times in measured.items():
        total = sum(times.values())
        stages = "".join(f"{1e3 * times[stage]:>13.1f}" for stage in STAGES)
        share, goal = times["pooling"] / total, GOALS.get(name)
        seconds, speedup = PAPER[name]
        print(f"{name:<20}{stages}{1e3 * total:>11.1f}{share:>9.1%}{slowest / total:>9.1f}x"
              f"{f'{goal}x' if goal else '':>6}{seconds:>10.3f}{speedup:>9}x")  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--windows", type=int, default=2000, metavar="N", help="candidate windows [2000]")
    parser.add_argument("--rcnn-windows", type=int, metavar="N", help="of these, for R-CNN to time [all]")
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="windows at a time for R-CNN [8]")
    parser.add_argument("--no-lrn", action="store_true", help="ZF-5 without its local response normalisation")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    arguments = parser.parse_args()

    image = load_photograph()
    windows = sppnet.selective_search(image, mode="quality", max_windows=arguments.windows)
    backbone = sppnet.OnnxBackbone(sppnet.random_body("ZF-5", lrn=not arguments.no_lrn), mean=128)
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((CLASSES, sppfast.Pyramid(LEVELS).output_length(256)), dtype=np.float32)
    count = min(arguments.rcnn_windows or len(windows), len(windows))

    versions = sppfast.versions()
    print(
        ", ".join(f"{name} {versions[name]}" for name in ("sppfast", "numpy", "numba", "onnxruntime", "cpu", "cores"))
    )
    print(f"load average before the start: {os.getloadavg()[0]:.2f}")
    print(f"photograph of {image.shape[0]} x {image.shape[1]} pixels, {len(windows)} windows of selective search")
    print(f"ZF-5 {'without' if arguments.no_lrn else 'with'} LRN in ONNX Runtime; R-CNN ran on {count} windows\n")
    measured = measure(backbone, weights, image, windows, count, arguments.batch)
    print_table(measured)
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"versions": versions, "windows": len(windows), "times": measured}, indent=2)
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
