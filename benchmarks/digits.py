"""How well the SPP-net system does on handwritten digits on photographs: accuracies and mean average precisions.

    python benchmarks/digits.py

Prints the two tables of docs/sppnet.md. Everything follows from the seed; train and test split share no writer and no
photograph.
"""

import argparse
import functools
import json
import sys
import time
from pathlib import Path

import numpy as np

from sppfast import sppnet
from sppfast.progress import tracked
from sppfast.sppnet import digits

PYRAMID = (6, 3, 2, 1)
CLASSIFIERS = {
    "pyramid 6, 3, 2, 1": {},
    "pyramid 4, 2, 1": {"levels": (4, 2, 1)},
    "one 6 x 6 level": {"levels": 6},
    "no pyramid: one 1 x 1 bin": {"levels": 1},
    "pyramid, all at scale 48": {"scale": 48},
    "pyramid, scales 32, 48, 64": {"scale": (32, 48, 64)},
    "pyramid, 9 views, scale 48": {"scale": 48, "views": "multi"},
}
DETECTORS = {
    "pyramid 6, 3, 2, 1": {},
    "no pyramid: one 1 x 1 bin": {"levels": 1},
    "pyramid, no hard negatives": {"mining_rounds": 0},
    "pyramid, one scale": {"scales": (240,)},
}


def classification(arguments: argparse.Namespace) -> dict[str, float]:
    """Accuracy of each classifier on pictures of one digit, of mixed sizes."""
    train = digits.make_pictures("train", arguments.pictures, digits.PICTURE_SIDES, arguments.seed)
    test = digits.make_pictures("test", arguments.pictures, digits.PICTURE_SIDES, arguments.seed)
    accuracies = {}
    for name, options in CLASSIFIERS.items():
        start = time.perf_counter()
        model = sppnet.SPPClassifier(digits.digits_backbone(), **({"levels": PYRAMID} | options)).fit(*train)
        accuracies[name] = model.score(*test)
        print(f"{name:<30}{accuracies[name]:>9.1%}{time.perf_counter() - start:>8.0f} s", flush=True)
    return accuracies


@functools.cache
def windows_of(image: bytes) -> np.ndarray:
    """Selective search, once for all detectors."""
    shape = (digits.HEIGHT, digits.WIDTH, 3)
    return sppnet.selective_search(np.frombuffer(image, np.uint8).reshape(shape))


def by_chance(images: list[np.ndarray], seed: int) -> list[tuple]:
    """The windows with random scores, each of a random class."""
    rng = np.random.default_rng(seed)
    predictions = []
    for image in images:
        windows = windows_of(image.tobytes())
        predictions.append((windows, rng.random(len(windows)), rng.integers(10, size=len(windows))))
    return predictions


def detection(arguments: argparse.Namespace) -> dict[str, float]:
    """Mean average precision of each detector on scenes, and of chance."""
    train = digits.make_scenes("train", arguments.scenes, arguments.seed)
    images, boxes, labels = digits.make_scenes("test", arguments.scenes, arguments.seed)
    precisions = {}

    def report(name: str, predictions: list[tuple], seconds: float) -> None:
        area, eleven = (
            sppnet.mean_average_precision(predictions, boxes, labels, method=method)[0]
            for method in ("area", "11-point")
        )
        precisions[name] = area
        print(f"{name:<30}{area:>9.1%}{eleven:>9.1%}{seconds:>8.0f} s", flush=True)

    for name, options in DETECTORS.items():
        start = time.perf_counter()
        options = digits.DETECTOR | {"proposals": lambda image: windows_of(image.tobytes())} | options
        detector = sppnet.SPPDetector(digits.digits_backbone(), **options).fit(*train)
        predictions = [detector.predict(image) for image in tracked(images, "images", "detection")]
        report(name, predictions, time.perf_counter() - start)
    report("chance", by_chance(images, arguments.seed), 0)
    return precisions


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=1500, metavar="N", help="of one digit, in each split [1500]")
    parser.add_argument("--scenes", type=int, default=120, metavar="N", help="photographs in each split [120]")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="[0]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    arguments = parser.parse_args()

    low, high = digits.PICTURE_SIDES
    print(f"{arguments.pictures} pictures of {low} to {high} pixels height to learn from, as many to test")
    print(f"{'':<30}{'accuracy':>9}{'time':>10}")
    accuracies = classification(arguments)
    print(f"\n{arguments.scenes} photographs with up to 8 digits to learn from, as many to test")
    print(f"{'':<30}{'mAP':>9}{'11-point':>9}{'time':>10}")
    precisions = detection(arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps({"accuracy": accuracies, "mAP": precisions}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
