"""Every scenario of threads and processes beside each of Numba's threading layers, and caches that many fight over."""

import functools
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from processes import PRELUDE, TESTS, finish, start

from .report import Row, bar
from .scenarios import HANG, LAYERS, SCENARIOS

COLD = PRELUDE.replace("180", str(HANG)) + "print(hashlib.sha256(sppfast.pool(x[:, :3], workers=2)).hexdigest())"
PROCESSES = 8


@functools.cache
def has_tbb():
    """Whether Numba finds its TBB in a fresh process: in this one another library may have loaded its own."""
    command = [sys.executable, "-c", "from numba.np.ufunc import tbbpool"]
    return subprocess.run(command, capture_output=True).returncode == 0


def scenario(name, layer, count):
    """Run a scenario beside a layer; the digest of its results, after what the layer itself may print."""
    return finish(start("-m", "torture.scenarios", name, str(count), NUMBA_THREADING_LAYER=layer), 2 * HANG).split()[-1]


def run_layers(count):
    """All scenarios beside all layers; one row of the table."""
    layers = [layer for layer in LAYERS if layer != "tbb" or has_tbb()]
    pairs = [(name, layer) for layer in layers for name in SCENARIOS]
    digests = set()
    with bar(len(pairs), "scenarios", "layers") as shown:
        for name, layer in pairs:
            digests.add(scenario(name, layer, count))
            shown.update()
    assert len(digests) == 1, "results differ between layers"
    tried = f"{', '.join(SCENARIOS)}: each beside {', '.join(layers)}, 16 threads of {count} calls"
    return Row("Threads and processes", tried, "the same bits in all of them", f"layers --count {count}")


def one_cache(cache):
    """First calls of many processes on one empty cache, and of one more on the full cache; what they print."""
    started = [start("-c", COLD, NUMBA_CACHE_DIR=cache) for _ in range(PROCESSES)]
    return {*(finish(process, 2 * HANG) for process in started), finish(start("-c", COLD, NUMBA_CACHE_DIR=cache))}


def run_caches(rounds):
    """Many rounds of it; one row of the table."""
    digests = set()
    with bar(rounds, "rounds", "caches") as shown:
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as cache:
                digests |= one_cache(cache)
                assert any(Path(cache).rglob("*.nbi")), "nothing was cached"
            shown.update()
    assert len(digests) == 1, "results differ"
    tried = f"{rounds} rounds of {PROCESSES} processes whose first call finds one empty cache directory"
    return Row("One empty cache", tried, "the same bits every time", f"caches --rounds {rounds}")


def run_bounds():
    """The tests of the kernels that index arrays, in Numba's mode that checks bounds; one row of the table."""
    with tempfile.TemporaryDirectory() as cache:
        places = {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": cache}
        said = finish(start("-m", "pytest", "-q", str(TESTS / "test_sppnet_boxes.py"), **places), 2 * HANG)
    passed = re.search(r"\d+ passed", said).group()
    return Row("Numba's `boundscheck`", "`test_sppnet_boxes.py`, whose kernels index arrays", passed, "bounds")
