"""`roi_pool` beside OpenVINO's over a grid of channels, maps, windows and bins, the least favourable first.

    python benchmarks/grid.py [--seconds S] [--least N] [--threads T]

Both take turns, as in `sppfast bench`; a ratio is OpenVINO's time over sppfast's.
"""

import argparse
import itertools
import statistics
from dataclasses import replace
from functools import partial

from sppfast.bench import measure, peers
from sppfast.bench.devices import Cpu
from sppfast.bench.work import Case, Row, roi_case
from sppfast.cores import available_cores
from sppfast.progress import tracked

CHANNELS = 4, 16, 64, 256
MAPS = (7, 7), (13, 13), (38, 63), (100, 152)
WINDOWS = 1, 10, 100, 1000
BINS = 2, 7


def build(count: int, bins: int, size: tuple[int, int], channels: int, device: Cpu) -> Case:
    """Build one point, with no other peer."""
    case = roi_case(count, (bins,), device, size, channels)
    return replace(case, peers={"openvino": case.peers["openvino"]})


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.2, help="for each point")
    parser.add_argument("--least", type=int, default=30, help="how many points are printed")
    parser.add_argument("--threads", type=int, default=available_cores(), help="of each library")
    arguments = parser.parse_args()
    device = Cpu(arguments.threads)
    peers.load(device)
    rows = []
    for channels, size, count, bins in itertools.product(CHANNELS, MAPS, WINDOWS, BINS):
        name = f"{count:5} windows, {bins}x{bins}, map {channels}x{size[0]}x{size[1]}"
        rows.append(Row(name, partial(build, count, bins, size, channels)))
    points = [measure(row, device, arguments.seconds) for row in tracked(rows, "points", "grid")]
    points.sort(key=lambda point: point["ratio"]["openvino"])
    for point in points[: arguments.least]:
        ms = point["ms"]
        print(f"{point['row']:44}{ms['sppfast']:9.3f} ms {ms['openvino']:9.3f} ms {point['ratio']['openvino']:6.2f}x")
    ratios = [point["ratio"]["openvino"] for point in points]
    slower = sum(ratio < 1 for ratio in ratios)
    print(f"{len(ratios)} points: median {statistics.median(ratios):.2f}x, slower than OpenVINO at {slower}")


if __name__ == "__main__":
    main()
