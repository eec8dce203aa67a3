"""Ctrl-C at any moment of a call: it is raised, the next call is right, and nothing is held for ever."""

import os
import signal

import numpy as np

from sppfast.cpu import division, threads

from .report import Row, bar
from .scenarios import right, work


def run(count, seed):
    """Interrupt calls so many times; one row of the table."""
    rng, made = np.random.default_rng(seed), work()
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    division.SERIAL_ITEMS, serial = 0, division.SERIAL_ITEMS  # every call wakes the threads
    try:
        with bar(count, "interrupts", "interrupts") as shown:
            while shown.n < count:
                chosen = rng.integers(0, len(made), 3)
                shown.update(interrupted([made[i][0] for i in chosen], rng.exponential(3e-4)))
                assert right(chosen), "another result after an interrupt"
                assert not threads.crew.busy.locked(), "the threads were not given back"
    finally:
        division.SERIAL_ITEMS = serial
        signal.signal(signal.SIGALRM, before)
    tried = f"{count} interrupts at random moments of calls of all operators"
    found = f"the next calls right, the threads free, {len(os.listdir('/proc/self/task'))} in the process at the end"
    return Row("Ctrl-C", tried, found, f"interrupts --count {count} --seed {seed}")


def interrupted(made, seconds):
    """Make calls, interrupted after a while; whether they were."""
    try:
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6))
        for call in made:
            call()
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        return True
    return False
