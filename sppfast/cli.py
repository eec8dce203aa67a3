"""The command line: ``sppfast pool``, ``detect``, ``info``, ``bench`` and ``demo``."""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.lib.format import open_memmap

import sppfast

from .extras import require
from .files import replacing
from .progress import progress, tracked

CHUNK_BYTES = 64 * 2**20  # of the input: bounds the memory in use, and is long enough to keep every core busy


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """End with status 2 and one line, instead of argparse's usage block."""
        self.exit(2, f"sppfast: error: {message} (see {self.prog} --help)\n")


def _levels(text: str) -> tuple[tuple[int, int], ...]:
    parts = [re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", part.strip()) for part in text.split(",")]
    if not all(parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list such as 4,2,1 or 6,3x2,1")
    return tuple((int(part[1]), int(part[2] or part[1])) for part in parts if part)


def _workers(text: str) -> int:
    if not re.fullmatch(r"-?0*[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of threads (-1: all cores)")
    return int(text)


def _threads(text: str) -> int:
    if not re.fullmatch(r"0*[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of threads")
    return int(text)


def _seconds(text: str) -> float:
    if not re.fullmatch(r"\d+\.?\d*|\.\d+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return float(text)


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a regular expression: {error}") from error
    return text


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="sppfast", description="Spatial pyramid pooling of arrays.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"sppfast {sppfast.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    pool = commands.add_parser(
        "pool",
        help="pool the feature maps of a .npy file",
        description="Pool the feature maps (C, H, W) or (N, C, H, W) in a .npy file, each into one row. Both "
        "files are memory-mapped and may be larger than the memory. OUT appears only when it is complete.",
        allow_abbrev=False,
    )
    pool.add_argument("input", metavar="IN.npy", type=Path)
    pool.add_argument("output", metavar="OUT.npy", type=Path)
    pool.add_argument("--levels", type=_levels, default="4,2,1", help="bins per axis, such as 6,3x2,1 [4,2,1]")
    pool.add_argument("--mode", choices=["max", "avg"], default="max", help="[max]")
    pool.add_argument("--bins", choices=["adaptive", "sliding", "caffe"], default="adaptive", help="[adaptive]")
    pool.add_argument("--layout", choices=["NCHW", "NHWC"], default="NCHW", help="of the maps in IN.npy [NCHW]")
    pool.add_argument("--workers", type=_workers, metavar="N", help="threads [all cores]")
    pool.set_defaults(run=_pool)

    info = commands.add_parser("info", help="print the versions and settings that a bug report needs")
    info.set_defaults(run=_info)

    detect = commands.add_parser(
        "detect",
        help="find objects in images",
        description="Find objects in images by a detector that SPPDetector.save wrote. DIR gets a picture of each "
        "image, with boxes drawn, and detections.csv.",
        allow_abbrev=False,
    )
    detect.add_argument("images", metavar="IMAGE", type=Path, nargs="+")
    detect.add_argument("--model", type=Path, metavar="FILE", required=True, help="the detector")
    detect.add_argument("--out", type=Path, metavar="DIR", required=True, help="made if missing")
    detect.add_argument("--score", type=float, metavar="S", default=0.0, help="least score of what is shown [0]")
    detect.set_defaults(run=_detect)

    bench = commands.add_parser(
        "bench",
        help="time sppfast beside the other libraries that are installed",
        description="Time sppfast beside torch, torchvision, OpenVINO, ONNX Runtime and OpenCV, those that are "
        "installed, on this machine, in turn and with as many threads each. The first run also compiles kernels.",
        allow_abbrev=False,
    )
    bench.add_argument("--rows", type=_pattern, default="", metavar="REGEX", help="only rows whose name matches")
    bench.add_argument("--all", action="store_true", help="all rows instead of the short table")
    bench.add_argument("--seconds", type=_seconds, default=2.0, metavar="S", help="for each row [2]")
    bench.add_argument("--threads", type=_threads, metavar="N", help="of each library [all cores]")
    bench.add_argument("--gpu", action="store_true", help="on the GPU, beside torch and torchvision")
    bench.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    bench.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the ratios there")
    bench.set_defaults(run=_bench)

    demo = commands.add_parser("demo", help="pool photographs, find digits on photographs, and draw both")
    demo.add_argument("--out", type=Path, default=Path("sppfast-demo"), metavar="DIR", help="[sppfast-demo]")
    demo.set_defaults(run=_demo)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; those of the process if not given.

    Returns
    -------
    int
        The exit status: 0, 1 after an error in files or data, 130 after Ctrl-C. A usage error raises
        ``SystemExit(2)``.
    """
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except KeyboardInterrupt:
        print("sppfast: interrupted", file=sys.stderr)
        return 130
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except (ImportError, MemoryError, TypeError, ValueError) as error:
        return _fail(str(error))
    return 0


def _fail(message: str) -> int:
    print("sppfast: error:", " ".join(message.split()), file=sys.stderr)
    return 1


def _info(arguments: argparse.Namespace) -> None:
    sppfast.show_versions()


def _demo(arguments: argparse.Namespace) -> None:
    from sppfast import demo

    demo.run(arguments.out)


def _bench(arguments: argparse.Namespace) -> None:
    from sppfast import bench

    bench.run(
        arguments.rows,
        every=arguments.all,
        seconds=arguments.seconds,
        threads=arguments.threads,
        gpu=arguments.gpu,
        json_path=arguments.json,
        plot_path=arguments.plot,
    )


def _detect(arguments: argparse.Namespace) -> None:
    require("sppfast detect", "sppnet", "cv2", "matplotlib", "onnx", "onnxruntime", "sklearn")
    from sppfast.sppnet import SPPDetector
    from sppfast.sppnet.drawing import draw_detections
    from sppfast.sppnet.images import read_image

    pictures = [arguments.out / f"{image.stem}.png" for image in arguments.images]
    for image, picture in zip(arguments.images, pictures, strict=True):
        if pictures.count(picture) > 1 or picture.resolve() == image.resolve():
            raise ValueError(f"{image}: its picture {picture} would replace another image or picture")
    detector = SPPDetector.load(arguments.model)
    detector.set_params(score_threshold=arguments.score)
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows: list[list[Any]] = []
    for path, picture in zip(tracked(arguments.images, "images", "detection"), pictures, strict=True):
        image = read_image(path)
        try:
            boxes, scores, labels = detector.predict(image)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        draw_detections(image, boxes, scores, labels, detector.classes_, picture)
        rows += [[path, n, f"{s:.4f}", *b.round(2)] for b, s, n in zip(boxes, scores, labels, strict=True)]
        print(f"{path}: {len(boxes)} found -> {picture}")
    with replacing(arguments.out / "detections.csv") as part, open(part, "w", newline="") as file:
        csv.writer(file).writerows([["image", "label", "score", "x0", "y0", "x1", "y1"], *rows])


def _pool(arguments: argparse.Namespace) -> None:
    options = {name: getattr(arguments, name) for name in ("levels", "mode", "bins", "layout", "workers")}
    x = _open_npy(arguments.input)
    try:
        if x.ndim not in (3, 4):
            raise ValueError(f"expected (C, H, W) or (N, C, H, W), got shape {x.shape}")
        nothing = sppfast.pool(_batch(x)[:0], **options)  # checks the options, and tells the result's row
    except (TypeError, ValueError) as error:
        raise ValueError(f"{arguments.input}: {error}") from error
    count = len(_batch(x))
    step = max(1, CHUNK_BYTES * count // max(1, x.nbytes))
    shape = (count, *nothing.shape[1:]) if x.ndim == 4 else nothing.shape[1:]
    with _new_npy(arguments.output, nothing.dtype, shape) as out, progress(count, "maps") as bar:
        rows = out if x.ndim == 4 else out[None]
        for start in range(0, count, step):
            chunk = slice(start, min(start + step, count))
            # Mapped anew each time: what was read before does not stay in this process's memory.
            maps = _batch(_open_npy(arguments.input))
            sppfast.pool(maps[chunk], out=rows[chunk], **options)
            bar.update(chunk.stop - start)


def _open_npy(path: Path) -> np.ndarray:
    try:
        return open_memmap(path, mode="r")
    except (MemoryError, OSError):
        raise
    except Exception as error:  # of a damaged header: whatever Python's tokenizer, its parser and mmap raise
        raise ValueError(f"{path}: not a .npy file, or damaged: {error}") from error


def _batch(x: np.ndarray) -> np.ndarray:
    return x if x.ndim == 4 else x[None]


@contextlib.contextmanager
def _new_npy(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Give a memory-mapped array that becomes the file `path` if the block ends well, and nothing if not."""
    # A job scheduler's SIGTERM must clean up as Ctrl-C does.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with replacing(path) as part:
            out = open_memmap(part, mode="w+", dtype=dtype, shape=shape)
            _reserve(part)
            yield out
            out.flush()
    finally:
        signal.signal(signal.SIGTERM, before)


def _reserve(path: Path) -> None:
    """Claim the disk space of a file: a full disk is an error now, not a bus error while it is written."""
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
