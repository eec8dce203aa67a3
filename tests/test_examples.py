"""The examples of the documentation run, in a shortened form, and learn what they should."""

import re
import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_multi_size_training(framework):
    """Two sizes in turn, and a third that the network never saw; a guess is right one time in ten."""
    pytest.importorskip(framework, reason=f"{framework} is not installed")
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    example = runpy.run_path(str(DOCS / "examples" / f"multi_size_{framework}.py"))
    parts = example["main"](epochs=6)
    assert list(parts) == [16, 24, 20]
    assert all(parts[size] > 0.8 for size in example["TRAINED"])
    assert parts[example["UNSEEN"]] > 0.6


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_page_about_arrays(framework):
    pytest.importorskip(framework, reason=f"{framework} is not installed")
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "arrays.md").read_text(), re.DOTALL)
    (block,) = (block for block in blocks if block.startswith(f"import {framework}"))
    exec(compile(block, "arrays.md", "exec"), {})
