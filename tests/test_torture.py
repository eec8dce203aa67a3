"""The quick part of the long tests, and that they can fail."""

import ctypes
import faulthandler
import os
import random

import numpy as np
import pytest
from torture import check, files, fuzz
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


def test_damaged_files(tmp_path):
    pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(0)
    for name, read in files.samples(tmp_path).items():
        raw, path = (tmp_path / name).read_bytes(), tmp_path / f"damaged-{name}"
        for _ in range(60):
            path.write_bytes(files.damaged(rng, raw))
            assert files.outcome(read, path) in ("refused", "read")
