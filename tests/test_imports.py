"""What importing the package brings and does, and what a call does to the rest of the machine."""

import json
from pathlib import Path

import numpy as np
import pytest
from processes import finish, run, start

import sppfast

pytestmark = pytest.mark.processes

FRAMEWORKS = {"torch", "jax", "cupy", "dask", "sklearn", "onnxruntime", "openvino", "matplotlib"}
IMPORTED = "print(*sorted({name.partition('.')[0] for name in sys.modules}))"


def test_import_brings_no_framework_and_no_compiler():
    names = set(finish(start("-c", "import sys, sppfast;" + IMPORTED)).split())
    assert "numpy" in names
    assert not names & (FRAMEWORKS | {"numba", "llvmlite", "scipy", "tqdm"})


def test_a_call_brings_no_framework():
    assert not set(run("work();" + IMPORTED).split()) & FRAMEWORKS


def test_versions():
    versions = sppfast.versions()
    assert versions["sppfast"] == sppfast.__version__
    assert versions["numpy"] == np.__version__


def test_show_versions(capsys):
    sppfast.show_versions()
    printed = capsys.readouterr().out
    for part in ("sppfast", sppfast.__version__, "numpy", np.__version__, "numba"):
        assert part in printed


# Tells what is written, sent or started, by Python's own account of it.
WATCH = """
import json, os, sys
import numpy  # which changes the environment and puts it back
seen, environment = set(), dict(os.environ)
def watch(event, arguments):
    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & writes:
        seen.add((event, os.fspath(arguments[0]) if not isinstance(arguments[0], int) else ""))
    elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.rename", "os.chmod", "os.truncate", "os.utime"):
        seen.add((event, os.fspath(arguments[0])))
    elif event.startswith(("socket.", "subprocess.", "os.exec", "os.posix_spawn", "os.system", "urllib.", "os.putenv")):
        seen.add((event, repr(arguments)))
sys.addaudithook(watch)
import sppfast
{code}
assert dict(os.environ) == environment
print(json.dumps(sorted(seen)))
"""
CALL = """
import numpy
sppfast.pool(numpy.ones((3, 9, 9), numpy.float32), workers=2)
"""


def seen(code, cache):
    """What is done by the import and some code, with a cache directory of its own."""
    return json.loads(finish(start("-B", "-c", WATCH.format(code=code), NUMBA_CACHE_DIR=str(cache))))


def test_an_import_writes_nothing_and_calls_nobody(tmp_path):
    assert seen("", tmp_path / "cache") == []
    assert not list(tmp_path.iterdir())


def test_a_call_writes_in_the_cache_directory_only(tmp_path):
    """With one exception: Numba asks an empty file in a temporary directory whether memory there can be run."""
    done = seen(CALL, tmp_path / "cache")
    assert any(event == "open" for event, _ in done)
    elsewhere = [(event, path) for event, path in done if not Path(path).is_relative_to(tmp_path / "cache")]
    assert elsewhere == []


@pytest.mark.parametrize("code", ["import socket; socket.socket()", "os.environ['A'] = ''", "open('/dev/null', 'w')"])
def test_what_is_forbidden_is_seen(code, tmp_path):
    done = finish(start("-B", "-c", WATCH.format(code=code).replace("assert", "#"), NUMBA_CACHE_DIR=str(tmp_path)))
    assert json.loads(done)
