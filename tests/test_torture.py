"""The quick part of the long tests, and that they can fail."""

import ctypes
import faulthandler
import os
import random
import re

import numpy as np
import processes
import pytest
from torture import bits, check, files, fuzz, peaks
from torture.cases import Case, draw
from torture.fences import SIDES, fenced
from torture.memory import carve, guards_hold

import sppfast


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("block", [0, 1, 2, 3, 4, 5, 6, 7, 17])
def test_random_calls(block):
    """One block of each setting, two of them beside fences."""
    with fuzz.setting(block) as fence:
        wrong = {number: fuzz.one(2, number, fence) for number in range(block * 500, block * 500 + 60)}
    assert not any(wrong.values()), {number: what for number, what in wrong.items() if what}


def test_a_case_is_the_same_every_time():
    assert repr(draw(5, 77)) == repr(draw(5, 77)) != repr(draw(5, 78))


def test_a_wrong_answer_is_found(monkeypatch):
    x = np.arange(18, dtype=np.float32).reshape(2, 3, 3)
    case = Case("pool", {"x": x, "levels": (2, 1), "mode": "max", "layout": "NCHW"}, rows=1)
    assert check.check(case) is None
    right = sppfast.pool(x, (2, 1))
    right[3] += 1
    monkeypatch.setattr(sppfast, "pool", lambda **options: right)
    assert "1 of 10 differ" in check.check(case)
    monkeypatch.setattr(sppfast, "pool", lambda **options: right.astype(np.float64))
    assert "expected float32" in check.check(case)


def test_an_error_that_blames_another_argument_is_found():
    case = Case("pool", {"x": np.zeros((1, 2, 2)), "levels": 0}, spoiled=("mode",))
    assert "expected it to blame ('mode',)" in check.check(case)
    case.spoiled = ("levels",)
    assert check.check(case) is None


@pytest.mark.parametrize("seed", range(8))
def test_guards(seed):
    buffer, lay = carve(random.Random(seed), (3, 4), np.dtype(np.float32))
    lay(buffer)[...] = 7
    assert guards_hold(buffer, lay)
    inside = np.zeros_like(buffer)
    lay(inside).view(np.uint32)[...] = 2**32 - 1
    outside = np.flatnonzero(inside == 0)
    if len(outside):
        buffer[outside[0]] ^= 1
        assert not guards_hold(buffer, lay)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("side", SIDES)
def test_a_byte_outside_ends_the_process(side):
    with fenced(side):
        array = np.arange(5.0)
    address = array.ctypes.data
    assert reads(address) == reads(address + array.nbytes - 1) == 0
    assert reads(address - 1 if side == "begin" else address + array.nbytes) == 11
    assert array.sum() == 10


def reads(address):
    """The signal that ends a child which reads a byte at an address."""
    pid = os.fork()
    if not pid:
        faulthandler.disable()  # the crash is expected
        ctypes.string_at(address, 1)
        os._exit(0)
    return -os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_too_little_memory():
    """Some calls have enough, some do not."""
    row = processes.finish(processes.start("-X", "faulthandler", "-m", "torture", "limits", "--count", "3"))
    assert all(int(n) for n in re.search(r"\| (\d+) right, (\d+) `MemoryError`", row).groups())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_allocations_that_fail():
    """Of each call, some do."""
    pytest.importorskip("_testcapi")  # CPython's own, which makes them fail
    row = processes.finish(processes.start("-X", "faulthandler", "-m", "torture", "allocations", "--step", "79"))
    assert all(int(n) for n in re.search(r"\| (\d+) right, (\d+) refused", row).groups())


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="this system does not tell peaks of memory")
@pytest.mark.parametrize("name", ["pool, a result as large", "roi_align, 16 channels", "roi_pool_backward"])
def test_peak_memory(name):
    read, result, more = peaks.of_child(name, 1)
    assert peaks.share(read, result, more) <= peaks.MOST
    assert more > 0.9 * result  # it was seen at all


def test_arrays_that_change_during_calls():
    code = "from torture.races import work; print(work(120, 1))"
    assert int(processes.finish(processes.start("-c", code)))


def test_the_same_bits_for_any_workers_and_parts():
    here = bits.digests(1, ("float32",))
    code = "from torture.bits import digests; print(*digests(1, ('float32',)))"
    assert processes.finish(processes.start("-c", code, NUMBA_THREADING_LAYER="workqueue")).split() == here


def test_other_bits_are_found(monkeypatch):
    monkeypatch.setattr(sppfast, "pool", lambda x, *levels, workers, **options: np.full((len(x), 1), workers or 0))
    with pytest.raises(AssertionError, match="call 0 of seed 1"):
        bits.digests(1, ("float32",))


def test_kernels_that_index_arrays_have_a_mode_that_checks_bounds(tmp_path):
    """Of the others, which compute addresses, see `fences`."""
    code = """
    import numpy as np
    from sppfast.cpu.boxes import match
    box = np.zeros((1, 4))
    one = np.zeros(1, np.int64)
    try:
        match(box, one + 9, box, np.array([0, 1]), np.zeros(1, bool), 0.5)
    except IndexError as error:
        print(error)
    """
    places = {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    assert "out of bounds" in processes.run(code, **places)


def test_damaged_files(tmp_path):
    pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(0)
    for name, read in files.samples(tmp_path).items():
        raw, path = (tmp_path / name).read_bytes(), tmp_path / f"damaged-{name}"
        for _ in range(60):
            path.write_bytes(files.damaged(rng, raw))
            assert files.outcome(read, path) in ("refused", "read")
