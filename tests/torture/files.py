"""Damaged files: cut off, bits flipped, bytes replaced. Each is a clear error, or is read after all."""

import collections
import contextlib
import functools
import io
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from sppnet_helpers import shapes, sliding_windows

from sppfast import cli
from sppfast.sppnet import OnnxBackbone, SPPDetector
from sppfast.sppnet.bodies import body_model

from .report import Row, bar

ROOM = 4 * 2**30  # bytes of addresses, beyond those in use: a damaged file asks for no more


def damaged(rng, raw):
    """A file cut off, with bits flipped, or with bytes that are others."""
    raw, kind = bytearray(raw), rng.integers(3)
    if kind == 0:
        return bytes(raw[: rng.integers(len(raw))])
    near = len(raw) if rng.random() < 0.5 else min(len(raw), 200)  # half of the time in what describes the rest
    for place in rng.integers(0, near, rng.integers(1, 6)):
        raw[place] = raw[place] ^ 1 << rng.integers(8) if kind == 1 else rng.integers(256)
    return bytes(raw)


def samples(folder):
    """Write sound files; for each, what reads it."""
    np.save(folder / "maps.npy", np.random.default_rng(0).random((2, 3, 9, 9), dtype=np.float32))
    weights = np.random.default_rng(0).standard_normal((8, 3, 4, 4)).astype(np.float32) / 255
    body = body_model("conv8", [(4, 4, 0)], [(weights, np.zeros(8))])
    (folder / "body.onnx").write_bytes(body.SerializeToString())
    options = {"levels": (2, 1), "scales": (48,), "window_size": 24, "C": 0.1, "proposals": sliding_windows}
    detector = SPPDetector(OnnxBackbone(body, threads=1), **options).fit(*shapes(np.random.default_rng(1), 6))
    detector.set_params(proposals=None).save(folder / "model.npz")
    return {
        "maps.npy": pool_file,
        "body.onnx": functools.partial(OnnxBackbone, threads=1),
        "model.npz": SPPDetector.load,
    }


def pool_file(path):
    """Run the command line on maps: a file it cannot pool is one line and status 1."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        status = cli.main(["pool", str(path), str(path.with_suffix(".out"))])
    if status:
        assert status == 1 and said.getvalue().count("\n") == 1, said.getvalue()
        raise ValueError(said.getvalue())


def run(count, seed):
    """Damage each kind of file so many times; one row of the table."""
    rng, begin, seen = np.random.default_rng(seed), time.monotonic(), collections.Counter()
    with tempfile.TemporaryDirectory() as name, bar(3 * count, "files", "files") as shown:
        folder = Path(name)
        readers = samples(folder)
        limit = 4096 * int(Path("/proc/self/statm").read_text().split()[0]) + ROOM
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        for file, read in readers.items():
            raw, path = (folder / file).read_bytes(), folder / f"damaged-{file}"
            for _ in range(count):
                path.write_bytes(damaged(rng, raw))
                seen[outcome(read, path)] += 1
                shown.update()
    tried = f"{count} damaged files each: .npy, .onnx, detector's .npz; {(time.monotonic() - begin) / 60:.1f} minutes"
    found = ", ".join(f"{n} {what}" for what, n in seen.most_common())
    return Row("Damaged files", tried, found, f"files --count {count} --seed {seed}")


def outcome(read, path):
    """How reading a file ends: well, or with a clear error; any other exception goes on its way."""
    try:
        read(path)
    except ValueError as error:
        assert "Traceback" not in str(error)
        return "refused"
    except OSError:
        return "refused"
    return "read"
