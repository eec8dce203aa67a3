"""Threads and processes: nothing may crash, hang, or give another result.

Each scenario runs in a process of its own, so that an abort or a hang is no more than a failed test.
"""

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import oracle
import pytest
import workload
from processes import COMPILE, PACKAGES, PRELUDE, TIMEOUT, finish, run, start
from torture import interrupts, matrix
from torture.scenarios import LAYERS

import sppfast
from sppfast.cpu import descriptor

pytestmark = pytest.mark.processes

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@pytest.fixture(scope="module")
def digest():
    """What every process must come to; the oracle agrees with it."""
    x, rois = workload.x, workload.rois
    np.testing.assert_array_equal(sppfast.pool(x), oracle.pool(x))
    np.testing.assert_array_equal(sppfast.roi_pool(x, rois), oracle.roi_pool(x, rois))
    return workload.work()


@pytest.fixture(scope="module")
def digest_of_max():
    """The same for what `COMPILE` prints."""
    return workload.work(modes=["max"])


# ---- threads


def mixed_calls(rng):
    """Calls of all kinds, each with the oracle's answer."""
    small = rng.integers(-9, 9, (2, 5, 9, 9)).astype(np.float32)
    wide = rng.integers(-9, 9, (4, 70, 13, 13)).astype(np.float32)
    large = rng.integers(-9, 9, (1, 2, 200, 180)).astype(np.float32)
    rois = [[b, 10 * i, 5 * i, 60 + 12 * i, 90 + 10 * i] for i in range(12) for b in (1, 0)]
    calls = []
    for x in (small, wide, large):
        for options in ({}, {"levels": 3}, {"return_indices": True}, {"bins": "caffe"}):
            calls.append((sppfast.pool, (x,), options, oracle.pool(x, **options)))
    for options in ({}, {"levels": 7, "rounding": "fast_rcnn"}, {"return_indices": True}):
        calls.append((sppfast.roi_pool, (wide, rois), options, oracle.roi_pool(wide, rois, **options)))
    return calls


@pytest.mark.parametrize("workers", [None, 1, 3])
def test_sixteen_threads_at_once(workers, rng):
    calls = mixed_calls(rng)

    def one_thread(seed):
        for i in np.random.default_rng(seed).integers(0, len(calls), 30):
            function, arguments, options, want = calls[i]
            got = function(*arguments, workers=workers, **options)
            pairs = zip(got, want, strict=True) if isinstance(want, tuple) else [(got, want)]
            for one_got, one_want in pairs:
                np.testing.assert_array_equal(one_got, one_want)

    with ThreadPoolExecutor(16) as threads:
        for future in [threads.submit(one_thread, seed) for seed in range(16)]:
            future.result(timeout=TIMEOUT)


def test_threads_make_the_first_call(digest):
    code = """
    from concurrent.futures import ThreadPoolExecutor
    barrier = threading.Barrier(16)
    def first():
        barrier.wait()
        return work()
    with ThreadPoolExecutor(16) as threads:
        futures = [threads.submit(first) for _ in range(16)]
        print(*{future.result() for future in futures})
    """
    assert run(code) == digest


def test_a_worker_that_does_not_come_is_not_waited_for():
    """Its core may be busy for long."""
    code = """
    from sppfast.arrays import forget
    from sppfast.cpu import division, threads
    want = work()
    division.SERIAL_ITEMS = 0
    forget()
    crew = threads.crew = threads.Crew()
    crew._wake[1], crew._fields[threads.READY] = threads._new_lock(), 1  # one without a thread
    crew._started.append(threads.threading.Lock())
    print(work(workers=2) == want, crew._fields[threads.TASKS] > 0)
    """
    assert run(code) == "True True"


def test_workers_that_begin_late_have_numbers_of_their_own():
    """Those of one number would work in the same memory."""
    code = """
    import _thread, time
    from types import SimpleNamespace
    from sppfast.arrays import forget
    from sppfast.cpu import division, threads
    def start(function, arguments):
        return _thread.start_new_thread(lambda: (time.sleep(0.3), function(*arguments)), ())
    want = work()
    division.SERIAL_ITEMS = 0
    forget()
    crew = threads.crew = threads.Crew()
    threads._thread, threads.PATIENCE = SimpleNamespace(start_new_thread=start), 0
    same = [work(workers=2) == want for _ in range(3)]
    time.sleep(1)
    same += [work(workers=4) == want for _ in range(20)]
    print(all(same), len(crew._started) > 1, len(crew._started) == crew._fields[threads.READY])
    """
    assert run(code) == "True True True"


def test_workers_that_come_late(rng):
    """More than there are cores, asked for calls that are over before they wake, of more workers than the next."""
    x = rng.integers(-9, 9, (16, 64, 20, 20)).astype(np.float32)
    want = sppfast.pool(x, workers=1)
    for workers in rng.integers(1, 9, 3000):
        np.testing.assert_array_equal(sppfast.pool(x, workers=int(workers)), want)


@needs_fork
@pytest.mark.parametrize("layer", LAYERS)
def test_beside_numbas_own_threads(layer):
    """Sixteen threads call every operator while others are in parallel regions of Numba's; then children of a fork."""
    if layer == "tbb" and not matrix.has_tbb():
        pytest.skip("Numba finds no TBB")
    assert matrix.scenario("fork", layer, 5)


def test_joblib():
    pytest.importorskip("joblib")
    assert matrix.scenario("threading in loky", "workqueue", 3)


# ---- interrupts


def test_an_interrupt_of_a_long_call():
    """It is raised when the call returns."""
    code = """
    import signal, time
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    want = work()
    x = np.zeros((8, 64, 400, 400), np.float32)
    threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT)).start()
    begin = time.monotonic()
    try:
        while time.monotonic() < begin + 60:
            sppfast.pool(x, 200, mode="avg")
    except KeyboardInterrupt:
        print("interrupted", work() == want)
    """
    assert run(code) == "interrupted True"


def test_interrupts_leave_the_threads_free():
    interrupts.run(2000, 1)


# ---- fork


@needs_fork
@pytest.mark.parametrize("workers", [None, 1, 4])
def test_fork_after_use(workers, digest):
    """The child uses the package, and so does its own child; the parent goes on."""
    code = f"""
    want = work({workers})
    def child(depth):
        pid = os.fork()
        if pid == 0:
            ok = work({workers}) == want and (depth == 0 or child(depth - 1) == 0)
            os._exit(0 if ok else 3)
        return wait_for(pid)
    print(child(1), child(1), work({workers}))
    """
    assert run(code) == f"0 0 {digest}"


@needs_fork
def test_fork_before_use(digest):
    code = """
    pids = []
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            os._exit(0 if work() else 3)
        pids.append(pid)
    print(*map(wait_for, pids), work())
    """
    assert run(code) == f"0 0 0 {digest}"


@needs_fork
def test_fork_while_other_threads_pool(digest):
    code = """
    import warnings
    warnings.simplefilter("ignore", DeprecationWarning)
    want = work()
    stop = threading.Event()
    wrong = []
    def keep_busy():
        while not stop.is_set():
            if work() != want:
                wrong.append(1)
    threads = [threading.Thread(target=keep_busy) for _ in range(4)]
    for thread in threads:
        thread.start()
    results = set()
    for _ in range(12):
        pid = os.fork()
        if pid == 0:
            os._exit(0 if all(work() == want for _ in range(5)) else 3)
        results.add(wait_for(pid, 20))
    stop.set()
    for thread in threads:
        thread.join()
    print(*results, len(wrong), work())
    """
    assert run(code) == f"0 0 {digest}"


SCRIPT = """
import multiprocessing, sys
from workload import work

def job(_):
    return work()

if __name__ == "__main__":
    work()
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        print(*set(pool.map_async(job, range(4)).get(100)))
"""


@pytest.mark.parametrize(
    "method", [*(pytest.param(name, marks=needs_fork) for name in ("fork", "forkserver")), "spawn"]
)
def test_multiprocessing(method, digest, tmp_path):
    """A pool of processes, started after use."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    assert finish(start(str(script), method)) == digest


# ---- caches and places that cannot be written


def test_four_processes_on_one_empty_cache(digest_of_max, tmp_path):
    cache = str(tmp_path / "cache")
    processes = [start("-c", COMPILE, NUMBA_CACHE_DIR=cache) for _ in range(4)]
    assert [finish(process) for process in processes] == [digest_of_max] * 4
    assert finish(start("-c", COMPILE, NUMBA_CACHE_DIR=cache)) == digest_of_max


def test_one_file_for_each_index_of_the_cache(tmp_path):
    """Numba numbers what one index names: two processes at once may take the same number for two kernels."""
    code = PRELUDE + "print(len([sppfast.roi_pool(x, rois, 2, mode=mode) for mode in ('max', 'avg')]))"
    for places in ({}, {"NUMBA_CPU_NAME": "generic"}):
        assert finish(start("-c", code, NUMBA_CACHE_DIR=str(tmp_path), **places)) == "2"
    indices = list(tmp_path.rglob("*.nbi"))
    assert len([index for index in indices if index.name.startswith("kernels.")]) == 4
    assert all(len(list(index.parent.glob(f"{index.stem}.*.nbc"))) == 1 for index in indices)


def test_nowhere_to_write(digest_of_max, tmp_path):
    """No cache directory, no home, a read-only package: files stand where directories should be."""
    package = Path(sppfast.__file__).parent
    copy = tmp_path / "sppfast"
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for directory in [copy, *(path for path in copy.rglob("*") if path.is_dir())]:
        (directory / "__pycache__").write_text("")
    nowhere = str(copy / "__pycache__" / "below")
    places = {"NUMBA_CACHE_DIR": nowhere, "HOME": nowhere, "XDG_CACHE_HOME": nowhere}
    assert finish(start("-c", COMPILE, first_path=tmp_path, **places)) == digest_of_max


@pytest.mark.skipif(not shutil.which("unshare"), reason="this system has no mount namespaces")
def test_a_full_cache_that_cannot_be_written(digest_of_max, tmp_path):
    """Read-only by its mount, which holds for root too; so is the home."""
    cache = tmp_path / "cache"
    assert finish(start("-c", COMPILE, NUMBA_CACHE_DIR=str(cache))) == digest_of_max
    mount = f"mount --bind '{tmp_path}' '{tmp_path}' && mount -o remount,bind,ro '{tmp_path}' && exec \"$@\""
    before = ("unshare", "--mount", "sh", "-c", mount, "sh")
    if subprocess.run([*before, "true"], capture_output=True).returncode:
        pytest.skip("this process may not mount")
    read_only = COMPILE + f"\ntry:\n    open({str(cache / 'x')!r}, 'w')\nexcept OSError:\n    print('read-only')"
    places = {"NUMBA_CACHE_DIR": str(cache), "HOME": str(tmp_path)}
    assert finish(start("-c", read_only, before=before, **places)).split() == [digest_of_max, "read-only"]


def test_another_processor(digest_of_max, tmp_path):
    """Without this processor's own instructions the results are the same."""
    places = {"NUMBA_CPU_NAME": "generic", "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    assert finish(start("-c", COMPILE, **places)) == digest_of_max


def test_a_processor_that_converts_no_halves(tmp_path):
    """Means of float16, and maxima of weighted cells, of all exponents."""
    code = """
    x = np.random.default_rng(0).integers(0, 2**16, (24, 9, 11), dtype=np.uint16).view(np.float16)
    x = np.where(np.isfinite(x), x, x.dtype.type(0))
    means = [sppfast.pool(x, (2, 1), mode="avg", layout=layout) for layout in ("NCHW", "NHWC")]
    means += [sppfast.roi_align(x, [[0, 0, 150, 130]], 2, mode=mode) for mode in ("avg", "max")]
    print(b"".join(mean.tobytes() for mean in means).hex())
    """
    places = {"NUMBA_CPU_NAME": "generic", "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    assert run(code, **places) == run(code)


def test_sources_that_changed_are_compiled_anew(tmp_path):
    """Functions are made of other files than their own, whose numbers for the fields of a descriptor may change."""
    package = tmp_path / "sppfast"
    shutil.copytree(PACKAGES / "sppfast", package, ignore=shutil.ignore_patterns("__pycache__"))
    code = PRELUDE + "print(sppfast.roi_align(x, rois, 2).sum(), sppfast.__file__)"
    given = {"first_path": tmp_path, "NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONSAFEPATH": "1"}
    first = finish(start("-c", code, **given))
    path = package / "cpu" / "descriptor.py"
    text, fields = path.read_text(), descriptor.FIELDS + 1
    changed = text.replace("\n    BASE_AT,", "\n    NEW,\n    BASE_AT,", 1)
    changed = changed.replace(f") = range({fields})", f") = range({fields + 1})")
    assert changed != text
    path.write_text(changed)
    assert finish(start("-c", code, **given)) == first
    assert first.endswith(str(package / "__init__.py"))
