"""Progress bars for long work, where tqdm is installed."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")


class _NoBar:
    def update(self, count: int) -> None:
        """Take the progress, and show nothing."""


@contextlib.contextmanager
def progress(total: int, unit: str, what: str | None = None) -> Iterator[Any]:
    """Show the progress over `total` units after a second, on a terminal, where tqdm is installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield _NoBar()
        return
    with tqdm(total=total, unit=f" {unit}", desc=what, delay=1, disable=None, leave=False) as bar:
        yield bar


def tracked(items: Collection[Item], unit: str, what: str, show: bool = True) -> Iterator[Item]:
    """Go through items, and show the progress if that is wanted."""
    if not show:
        yield from items
        return
    with progress(len(items), unit, what) as bar:
        for item in items:
            yield item
            bar.update(1)
