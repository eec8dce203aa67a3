"""What to install, where an optional package is missing."""

from __future__ import annotations

import importlib.util


def require(what: str, extra: str, *modules: str) -> None:
    """Check that modules are installed, and name the extra that brings them if not."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise ImportError(f'{what} needs {", ".join(missing)}: pip install "sppfast[{extra}]"')
