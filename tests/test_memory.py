"""Results whose memory is taken from a result before them."""

import importlib
import os
import platform
import subprocess
import sys
import threading

import numpy as np
import pytest

from sppfast import memory

FLOAT = np.dtype(np.float32)
LARGE = memory.KEPT_BYTES // 4

pytestmark = pytest.mark.skipif(not hasattr(memory.mmap, "MADV_FREE"), reason="the system has no MADV_FREE")


@pytest.fixture(autouse=True)
def _nothing_kept():
    memory._kept.clear()
    memory._sizes = ()
    yield
    memory._kept.clear()


def address(array):
    return array.__array_interface__["data"][0]


def test_a_result_takes_the_memory_of_the_last():
    first = memory.allocate((LARGE,), FLOAT)
    place = address(first)
    del first
    assert address(memory.allocate((4, LARGE // 4), FLOAT)) == place


def test_memory_in_use_is_not_taken():
    first = memory.allocate((2, LARGE), FLOAT)
    view = first[1:, ::2]
    view[:] = 7
    del first
    second = memory.allocate((2, LARGE), FLOAT)
    second[:] = 1
    assert not np.shares_memory(second, view)
    assert (view == 7).all()


@pytest.mark.parametrize(("size", "kept"), [(LARGE + 1, 0), (LARGE * 2, 1)])
def test_memory_that_is_too_small_is_not_taken(size, kept):
    """One like it is replaced, so that the next of either size take the new one."""
    del_me = memory.allocate((LARGE,), FLOAT)
    del del_me
    result = memory.allocate((size,), FLOAT)
    result[:] = 1
    assert len(memory._kept) == kept
    del result
    assert [len(block) for block in memory._kept][-1:] == [4 * size]


@pytest.mark.parametrize("size", [LARGE, 3 * LARGE // 2, 2 * LARGE - 1])
def test_results_of_changing_sizes_take_the_memory_of_the_largest(size):
    del_me = memory.allocate((2 * LARGE - 1,), FLOAT)
    place = address(del_me)
    del del_me
    assert address(memory.allocate((size,), FLOAT)) == place


def test_of_blocks_that_serve_the_smallest_is_taken(monkeypatch):
    monkeypatch.setattr(memory, "KEPT_BLOCKS", 3)
    results = [memory.allocate((size,), FLOAT) for size in (3 * LARGE, 2 * LARGE, 5 * LARGE // 2)]
    places = [address(result) for result in results]
    results.clear()
    taken = [memory.allocate((2 * LARGE,), FLOAT) for _ in range(3)]
    assert [address(result) for result in taken] == [places[1], places[2], places[0]]


def test_much_smaller_results_leave_it():
    del_me = memory.allocate((2 * LARGE,), FLOAT)
    place = address(del_me)
    del del_me
    assert address(memory.allocate((LARGE,), FLOAT)) != place


def test_no_more_than_two_blocks_are_kept():
    results = [memory.allocate((LARGE + 1000 * i,), FLOAT) for i in range(5)]
    results.clear()
    assert len(memory._kept) == memory.KEPT_BLOCKS


def test_of_smaller_blocks_as_many_bytes_are_kept():
    """Those of the maps of a feature pyramid: of each a result."""
    sizes = [4 * LARGE, 2 * LARGE, LARGE, LARGE]
    results = [memory.allocate((size,), FLOAT) for size in sizes]
    results.clear()
    assert sorted(len(block) for block in memory._kept) == sorted(4 * size for size in sizes)
    del_me = memory.allocate((LARGE // 4,), FLOAT), memory.allocate((9 * LARGE,), FLOAT)
    del del_me
    assert sum(map(len, memory._kept)) <= memory.KEPT_BLOCKS * max(map(len, memory._kept))


def test_a_small_result_is_not_kept():
    del_me = memory.allocate((LARGE - 1,), FLOAT)
    del del_me
    assert not memory._kept


def test_a_smaller_result_is_kept_when_its_size_comes_again():
    size = memory.REPEATED_BYTES // 4 + 1000
    for kept in (0, 1, 1):
        result = memory.allocate((size,), FLOAT)
        result[:] = 1
        del result
        assert len(memory._kept) == kept


def test_a_smaller_result_is_kept_when_a_size_like_its_own_comes_again():
    size = memory.REPEATED_BYTES // 4 + 1000
    for times, kept in ((3, 0), (2, 1), (3, 1), (1, 1)):
        result = memory.allocate((times * size,), FLOAT)
        del result
        assert len(memory._kept) == kept


def test_large_scratch_memory_is_that_of_the_last_call():
    launch = importlib.import_module("sppfast.cpu.launch")
    for size in (2 * memory.KEPT_BYTES, 3 * memory.KEPT_BYTES // 2):
        taken = launch._take_scratch(size)
        launch._give_scratch(*taken)
        del taken
        assert [len(block) for block in memory._kept] == [2 * memory.KEPT_BYTES + memory.LINE_BYTES]


def test_the_huge_pages_of_kept_memory_may_be_taken_back(monkeypatch):
    """All but the parts at both ends of a block."""
    asked = []

    class Noted(memory.mmap.mmap):
        def madvise(self, option, *range_):
            if range_:
                asked.append(range_)
            super().madvise(option, *range_)

    monkeypatch.setattr(memory.mmap, "mmap", Noted)
    result = memory.allocate((5 * LARGE + 999,), FLOAT)
    place, size = address(result), result.nbytes
    del result
    ((start, length),) = asked
    assert (place + start) % memory.HUGE_BYTES == length % memory.HUGE_BYTES == 0
    assert 0 <= start < memory.HUGE_BYTES and 0 <= size - start - length < memory.HUGE_BYTES


def test_threads_never_share_a_block():
    wrong = []

    def work(number):
        for _ in range(20):
            result = memory.allocate((LARGE,), FLOAT)
            result[::1024] = number
            if not (result[::1024] == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_child_has_memory_of_its_own():
    kept = memory.allocate((LARGE,), FLOAT)
    kept[:] = 1
    del kept
    child = os.fork()
    if not child:
        result = memory.allocate((LARGE,), FLOAT)
        result[:] = 2
        os._exit(int(not (result == 2).all()))
    result = memory.allocate((LARGE,), FLOAT)
    result[:] = 3
    assert os.waitpid(child, 0)[1] == 0
    assert (result == 3).all()


HUGE_PAGES = """
import os, re, signal, sys
import numpy as np
import sppfast

x = np.random.default_rng(0).random((256, 38, 63), dtype=np.float32)
rois = np.tile([16.0, 16.0, 150.0, 150.0], (1000, 1))

def huge(y):
    start = y.__array_interface__["data"][0]
    for area in re.split(r"\\n(?=[0-9a-f]+-[0-9a-f]+ )", open("/proc/self/smaps").read()):
        low, high = (int(end, 16) for end in area.split()[0].split("-"))
        if low <= start < high:
            return int(re.search(r"AnonHugePages: +([0-9]+) kB", area)[1]) * 1024 / y.nbytes

def call(times):
    for _ in range(times):
        y = sppfast.roi_pool(x, rois, 7)
    return huge(y)

before = call(3)
child = os.fork()
if not child:
    signal.pause()
during = call(3)
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
print(before, during, call(3))
"""


@pytest.mark.processes
@pytest.mark.skipif(not os.path.exists("/proc/self/smaps"), reason="only Linux tells of huge pages")
def test_results_lie_in_huge_pages_after_a_fork():
    """A child divides what it has in common with its parent, and it stays divided: calls took 1.6 times as long."""
    done = subprocess.run([sys.executable, "-c", HUGE_PAGES], capture_output=True, text=True, check=True)
    before, *after = map(float, done.stdout.split())
    assert min(after) >= 0.8 * before


@pytest.mark.parametrize("count", [1, 100, memory.TOGETHER_BYTES // 4 + 1, memory.REPEATED_BYTES // 4, LARGE])
@pytest.mark.parametrize("dtype", [np.dtype(np.uint8), np.dtype(np.float64)], ids=str)
def test_values_and_indices_do_not_overlap(count, dtype):
    values, indices = memory.allocate_together((2, count), (dtype, np.dtype(np.int32)))
    assert (values.shape, values.dtype) == ((2, count), dtype)
    assert (indices.shape, indices.dtype) == ((2, count), np.int32)
    values[:], indices[:] = 7, -1
    assert (values == 7).all()
    assert (indices == -1).all()
    for array in (values, indices):
        assert array.flags.c_contiguous
        assert array.flags.aligned


FRESH_PAGES = """
import resource
import numpy as np
import sppfast

x = np.random.default_rng(0).random((256, 13, 13), dtype=np.float32)
rois = np.tile([16.0, 16.0, 150.0, 150.0], (60, 1))

def faults(calls):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(calls):
        sppfast.roi_pool(x, rois, 7, return_indices=True)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults(10)
print(faults(20))
"""


@pytest.mark.processes
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is of how malloc of glibc gives pages back")
def test_small_results_come_without_fresh_pages():
    """Values and indices of 3 MB each have 1470 pages: malloc gave those of two pieces back, call for call."""
    done = subprocess.run([sys.executable, "-c", FRESH_PAGES], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1000


def test_without_memory_it_is_a_memory_error():
    with pytest.raises(MemoryError):
        memory.allocate((2**45,), FLOAT)


class Unadvised(memory.mmap.mmap):
    """Memory of a system that takes no advice."""

    def madvise(self, *arguments):
        raise OSError(22, "Invalid argument")


def test_a_system_that_takes_no_advice(monkeypatch):
    monkeypatch.setattr(memory.mmap, "mmap", Unadvised)
    result = memory.allocate((LARGE,), FLOAT)
    result[:] = 1
    del result
    assert not memory._kept
