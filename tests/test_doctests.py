"""The examples in the docstrings, in the README and on the site run, and print what they say."""

import contextlib
import doctest
import importlib
import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from cuda_emulation.fixture import emulation

import sppfast
from sppfast import sppnet

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"```(python|console)\n(.*?)```", re.DOTALL)
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


@pytest.fixture
def emulated(request):
    """The emulated CuPy, for the page of the GPU."""
    with emulation() if request.node.callspec.id == "cuda.md" else contextlib.nullcontext():
        yield


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page(page, tmp_path, monkeypatch, emulated):
    """The blocks of a page, in order, in one namespace and one folder."""
    blocks = BLOCK.findall(page.read_text())
    for name in re.findall(r"^(?:>>> )?(?:import|from) (\w+)", "".join(block for _, block in blocks), re.MULTILINE):
        pytest.importorskip(name, reason=f"{name} is not installed")
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for number, (language, block) in enumerate(blocks):
        if language == "console":
            run_commands(block)
        elif block.startswith(">>>"):
            run_prompts(block, namespace, f"{page.name}, block {number}")
        else:
            exec(compile(block, f"{page.name}, block {number}", "exec"), namespace)


def run_prompts(block, namespace, name):
    test = doctest.DocTestParser().get_doctest(block, namespace, name, None, 0)
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    runner.run(test, clear_globs=False)
    namespace.update(test.globs)
    assert runner.failures == 0


def run_commands(block):
    """Lines that begin with a dollar are commands of ``sppfast``; what follows is what they print."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        line, _, expected = part.partition("\n")
        command, *arguments = shlex.split(line)
        assert command == "sppfast"
        done = subprocess.run([sys.executable, "-m", "sppfast", *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert doctest.OutputChecker().check_output(expected, done.stdout, FLAGS), done.stdout
