"""Threads that stay out of Python: they sleep on locks of CPython, wake in microseconds, and never take the GIL.

Numba's own layers are not used, because GNU OpenMP aborts a forked child that enters a parallel region and the
workqueue aborts when two threads enter one. Here a call that finds the crew at work does its tasks alone, and a
forked child starts a crew of its own.

Each worker begins with a share of the tasks that lie next to each other, the same one in the next call, and then takes
from the others' shares. So an array that is written again is mostly in the caches of the core that wrote it; taking
turns cost a gradient more than twice the time where two cores have no cache in common.

A call is open while the thread that leads it finds tasks. Workers enter it when they wake, and only those who did are
waited for: one whose core is busy, often with another library's threads that spin, keeps nobody waiting. Who waits for
them leaves the core to any thread that wants it.
"""

from __future__ import annotations

import _thread
import atexit
import ctypes
import os
import sys
import threading
import time
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from .compile import of_numbers, routine
from .lanes.llvm import I64
from .lanes.memory import load_i64

# Fields of the crew's state, an array of int64. Each counter that threads fight over has a cache line of its own; NEXT
# and each line after it count the tasks of one worker's share. AT_WORK is how many workers have entered the call that
# is open, or that and CLOSED, which is below 0, if none is; AWAKE is how many look out for one.
KERNEL, DESCRIPTOR, TASKS, WORKERS, STOP, ACQUIRE, RELEASE, DONE = range(8)
WAKE_AT, YIELD, READY, AT_WORK, AWAKE, NEXT = 8, 9, 16, 24, 32, 40
LINE = 8  # fields of a cache line
CLOSED = -(2**32)
# Attempts at a lock before sleeping on it. Waking from sleep takes 50 to 100 us on a virtual machine, of both threads.
WORKER_SPINS, SPIN_SECONDS = 1400, 3e-5  # for the next call: no longer, as whoever plans it may need this core
LEADER_SPINS = 2000  # for the last task of the others, which is about to end
PATIENCE = 0.1  # seconds, for a thread to begin


@intrinsic
def _add(typingctx: Any, address: Any, value: Any) -> Any:
    """Add to an integer in memory, atomically; return what it was."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", builder.inttoptr(args[0], I64.as_pointer()), args[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def _replace(typingctx: Any, address: Any, expected: Any, value: Any) -> Any:
    """Replace an integer in memory if it is as expected, atomically; return what it was."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = builder.inttoptr(args[0], I64.as_pointer())
        return builder.extract_value(builder.cmpxchg(place, args[1], args[2], "seq_cst", "seq_cst"), 0)

    return types.int64(*3 * [types.int64]), codegen


@intrinsic
def _set(typingctx: Any, address: Any, value: Any) -> Any:
    """Store an integer."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store(args[1], builder.inttoptr(args[0], I64.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def _call_kernel(typingctx: Any, kernel: Any, descriptor: Any, task: Any, worker: Any) -> Any:
    """Call a kernel by its address."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        function = ir.FunctionType(ir.VoidType(), [I64, I64, I64]).as_pointer()
        builder.call(builder.inttoptr(args[0], function), args[1:])
        return context.get_dummy_value()

    return types.void(*4 * [types.int64]), codegen


@intrinsic
def _try_lock(typingctx: Any, acquire: Any, lock: Any, wait: Any) -> Any:
    """Call PyThread_acquire_lock, which needs no GIL: 1 if the lock was taken."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        function = ir.FunctionType(ir.IntType(32), [I64, ir.IntType(32)]).as_pointer()
        taken = builder.call(builder.inttoptr(args[0], function), [args[1], builder.trunc(args[2], ir.IntType(32))])
        return builder.sext(taken, I64)

    return types.int64(*3 * [types.int64]), codegen


@intrinsic
def _unlock(typingctx: Any, release: Any, lock: Any) -> Any:
    """Call PyThread_release_lock."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        function = ir.FunctionType(ir.VoidType(), [I64]).as_pointer()
        builder.call(builder.inttoptr(args[0], function), [args[1]])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def _yield(typingctx: Any, address: Any) -> Any:
    """Call the system's function that lets other threads run."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.call(builder.inttoptr(args[0], ir.FunctionType(ir.IntType(32), []).as_pointer()), [])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@routine(types.boolean)
def _spin(acquire, lock, spins, yield_):
    """Try to take a lock so many times, between which other threads may run if `yield_` is not 0."""
    for _ in range(spins):
        if _try_lock(acquire, lock, 0) == 1:
            return True
        if yield_:
            _yield(yield_)
    return False


@routine()
def _sleep(acquire, lock):
    """Take a lock, asleep until it is released."""
    while _try_lock(acquire, lock, 1) != 1:
        pass


@routine()
def _rest(state, wake):
    """Wait to be woken: for a while awake."""
    acquire = load_i64(state, ACQUIRE)
    _add(state + 8 * AWAKE, 1)
    is_woken = _spin(acquire, wake, WORKER_SPINS, 0)
    _add(state + 8 * AWAKE, -1)
    if not is_woken:
        _sleep(acquire, wake)


@routine()
def _work(state, worker):
    """Do the tasks of this worker's share, then what is left of the others'."""
    kernel, descriptor = load_i64(state, KERNEL), load_i64(state, DESCRIPTOR)
    tasks, workers = load_i64(state, TASKS), load_i64(state, WORKERS)
    for i in range(workers):
        share = (worker + i) % workers
        next_, end = state + 8 * (NEXT + LINE * share), tasks * (share + 1) // workers
        task = _add(next_, 1)
        while task < end:
            _call_kernel(kernel, descriptor, task, worker)
            task = _add(next_, 1)


@routine(types.boolean)
def _enter(state):
    """Enter the call that is open, if one is."""
    place = state + 8 * AT_WORK
    at_work = _add(place, 0)
    while at_work >= 0:
        found = _replace(place, at_work, at_work + 1)
        if found == at_work:
            return True
        at_work = found
    return False


@of_numbers("void(int64)")
def _serve(state):
    """Be a worker, the next: sleep, enter, work, leave, until told to stop."""
    release = load_i64(state, RELEASE)
    worker = _add(state + 8 * READY, 1) + 1
    wake = load_i64(load_i64(state, WAKE_AT), worker)
    _rest(state, wake)
    while load_i64(state, STOP) == 0:
        if _enter(state):
            if worker < load_i64(state, WORKERS):  # it may have been asked to another call, of more workers
                _work(state, worker)
            if _add(state + 8 * AT_WORK, -1) == CLOSED + 1:
                _unlock(release, load_i64(state, DONE))
        _rest(state, wake)


@of_numbers("void(int64, int64, int64, int64, int64)")
def _lead(state, kernel, descriptor, tasks, helpers):
    """Wake workers 1 to `helpers`, work with them as worker 0, and wait for the last of those who came."""
    _set(state, kernel)
    _set(state + 8 * DESCRIPTOR, descriptor)
    _set(state + 8 * TASKS, tasks)
    _set(state + 8 * WORKERS, helpers + 1)
    for share in range(helpers + 1):
        _set(state + 8 * (NEXT + LINE * share), tasks * share // (helpers + 1))
    _add(state + 8 * AT_WORK, -CLOSED)
    for worker in range(1, helpers + 1):
        _unlock(load_i64(state, RELEASE), load_i64(load_i64(state, WAKE_AT), worker))
    _work(state, 0)
    if _add(state + 8 * AT_WORK, CLOSED) > 0:
        acquire, done = load_i64(state, ACQUIRE), load_i64(state, DONE)
        if not _spin(acquire, done, LEADER_SPINS, load_i64(state, YIELD)):
            _sleep(acquire, done)


@of_numbers("void(int64, int64, int64)")
def _alone(kernel, descriptor, tasks):
    for task in range(tasks):
        _call_kernel(kernel, descriptor, task, 0)


class Crew:
    """Worker threads, started as they are needed, one call at a time."""

    LIMIT = 256

    def __init__(self) -> None:
        self.busy = threading.Lock()
        self._rested = 0.0
        self._started: list[threading.Lock] = []  # locks that threads hold until they end
        self._memory = np.zeros(NEXT + LINE * (self.LIMIT + 2), dtype=np.int64)
        self._wake = np.zeros(self.LIMIT + 1, dtype=np.int64)
        skip = -self._memory.ctypes.data % (8 * LINE) // 8
        self._fields = self._memory[skip:]
        self._state = self._fields.ctypes.data
        self._fields[ACQUIRE] = _python_function("PyThread_acquire_lock")
        self._fields[RELEASE] = _python_function("PyThread_release_lock")
        self._fields[YIELD] = _yield_function()
        self._fields[DONE] = _new_lock()
        self._fields[AT_WORK] = CLOSED
        self._fields[WAKE_AT] = self._wake.ctypes.data

    @property
    def is_awake(self) -> bool:
        """Tell whether a worker is, or would be if the last call had had one: calls come one after the other, then."""
        return bool(self._fields[AWAKE]) or time.monotonic() < self._rested + SPIN_SECONDS

    def rest(self) -> None:
        """Note that a call has ended that more threads would have had work in."""
        self._rested = time.monotonic()

    def run(self, kernel: int, descriptor: int, tasks: int, workers: int) -> None:
        """Do the tasks of a kernel with up to `workers` threads, this one included."""
        helpers = min(workers, tasks, self.LIMIT) - 1
        if helpers > 0 and not self.busy.locked():
            with self.busy:  # unlike acquire() and try, it cannot be interrupted in between
                self._grow(helpers)
                _lead(self._state, kernel, descriptor, tasks, min(helpers, int(self._fields[READY])))
        else:
            _alone(kernel, descriptor, tasks)

    def _grow(self, helpers: int) -> None:
        """Start threads and see them ready; fewer do, where the system has no more or no memory for them.

        `threading` waits for ever for a thread that found no memory to begin. A thread takes its number as it begins:
        one that is late, or of which memory ran short to tell that it was started, never has another's.
        """
        while self._fields[READY] < helpers and not self._fields[STOP] and len(self._started) < self.LIMIT:
            ready, number = self._fields[READY], len(self._started) + 1
            try:
                self._wake[number] = self._wake[number] or _new_lock()
                ended = threading.Lock()
                ended.acquire()
                self._started.append(ended)
                _thread.start_new_thread(_live, (self._state, ended))
            except RuntimeError:  # there is none, or no lock
                del self._started[number - 1 :]
                return
            except (MemoryError, ctypes.ArgumentError):  # each may say that there is no memory
                return
            late = time.monotonic() + PATIENCE
            while self._fields[READY] == ready:
                if not ended.locked():  # it found no memory to begin
                    self._started.pop()
                    return
                if time.monotonic() > late:
                    return
                time.sleep(1e-5)

    def close(self) -> None:
        """End the threads, before the interpreter takes the compiled code from under them."""
        if not self.busy.acquire(timeout=1):
            return
        self._fields[STOP] = 1
        for number in range(1, len(self._started) + 1):
            _unlock_from_python(int(self._wake[number]))
        for ended in self._started:
            ended.acquire(timeout=1)
        self._started.clear()
        self.busy.release()


def _live(state: int, ended: threading.Lock) -> None:
    """Be a worker, on a thread of its own."""
    try:
        _serve(state)
    finally:
        ended.release()


def _python_function(name: str) -> int:
    return ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value or 0


def _yield_function() -> int:
    if sys.platform == "win32":
        function = ctypes.windll.kernel32.SwitchToThread
    else:
        function = ctypes.CDLL(None).sched_yield
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def _new_lock() -> int:
    """Allocate a lock of CPython, taken."""
    allocate = ctypes.PYFUNCTYPE(ctypes.c_void_p)(_python_function("PyThread_allocate_lock"))
    acquire = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)(_python_function("PyThread_acquire_lock"))
    lock = allocate()
    if not lock:
        raise MemoryError("no lock for a worker thread")
    acquire(lock, 0)
    return int(lock)


def _unlock_from_python(lock: int) -> None:
    ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(_python_function("PyThread_release_lock"))(lock)


crew = Crew()


def _renew() -> None:
    """Start afresh in a forked child, which has this thread alone."""
    global crew
    crew = Crew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


@atexit.register
def _close() -> None:
    crew.close()
