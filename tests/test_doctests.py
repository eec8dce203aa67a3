"""The examples in the docstrings and in the README run, and print what they say."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import sppfast
from sppfast import sppnet

README = Path(__file__).parents[1] / "README.md"
MODULES = ["sppfast", *(module.name for module in pkgutil.walk_packages(sppfast.__path__, "sppfast."))]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_docstrings(name):
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        if error.name is None or error.name.startswith("sppfast"):
            raise
        pytest.skip(f"{error.name} is not installed")
    result = doctest.testmod(module, optionflags=FLAGS)
    assert result.failed == 0


def test_public_names_have_examples():
    finder = doctest.DocTestFinder(recurse=False)
    for name in ("pool", "roi_pool", "Pyramid", "ConvGeometry"):
        (found,) = finder.find(getattr(sppfast, name), name)
        assert found.examples, name


def test_public_names_of_the_system_have_examples():
    finder = doctest.DocTestFinder(recurse=False)
    for name in sppnet.__all__:
        try:
            (found,) = finder.find(getattr(sppnet, name), name)
        except ImportError as error:
            pytest.skip(str(error))
        assert found.examples, name


@pytest.mark.skipif(not README.exists(), reason="there is no README.md")
def test_readme(tmp_path, monkeypatch):
    """The python blocks, in order, in one namespace; those with prompts as doctests."""
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)):
        if ">>>" not in block:
            exec(compile(block, f"README.md, block {number}", "exec"), namespace)
            continue
        test = doctest.DocTestParser().get_doctest(block, namespace, f"block {number}", "README.md", 0)
        runner = doctest.DocTestRunner(optionflags=FLAGS)
        runner.run(test, clear_globs=False)
        namespace.update(test.globs)
        assert runner.failures == 0
