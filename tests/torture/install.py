"""The wheel and the sdist, built, installed into empty environments, and tested from there."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .report import Row, bar

ROOT = Path(__file__).parents[2]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
OLDEST = ("numpy==1.26.*", "numba==0.60.*")
NEEDED = ("pytest", "hypothesis", "ml_dtypes", "tqdm")
# What needs no other library; most of it in float32, whose kernels compile in a minute.
FILES = ("pool", "roi_pool", "roi_align", "gradients", "pyramid", "geometry", "properties", "errors", "imports")
VERSIONS = """
import platform, sppfast
versions = sppfast.versions()
print(sppfast.__file__, platform.python_version(), versions["numpy"], versions["numba"])
"""
FEW = "not int and not float16 and not float64 and not bool and not dtypes"


def pythons(extra=()):
    """The interpreters that are here, by version: on the path, where pyenv keeps them, and those named."""
    found = {}
    homes = sorted(Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob("versions/*/bin/python3"))
    for path in [*extra, *homes, *(shutil.which(f"python{version}") for version in PYTHONS), sys.executable]:
        try:
            seen = subprocess.run([path, "-c", "import sys; print(sys.version)"], capture_output=True, text=True)
        except (OSError, TypeError):  # a name without an interpreter, or none found
            continue
        version = re.match(r"3\.\d+", seen.stdout)
        if version and version.group() in PYTHONS:
            found.setdefault(version.group(), str(path))
    return dict(sorted(found.items(), key=lambda item: PYTHONS.index(item[0])))


def call(*command, **options):
    """Run a command that must end well."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def tested(folder, environment, python, package, versions):
    """Install a package into an empty environment of its own and test it; what was there, and how it went."""
    tests = folder / "tests"
    call(sys.executable, "-m", "virtualenv", "-q", "-p", python, environment)
    binary = environment / "bin" / "python"
    call(binary, "-m", "pip", "install", "-q", package, *versions, *NEEDED)
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    where, *seen = call(binary, "-c", VERSIONS, cwd=tests, env=clean).split()
    assert Path(where).is_relative_to(environment), f"{where} is not what was installed"
    files = [f"test_{name}.py" for name in FILES]
    said = call(binary, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", FEW, *files, cwd=tests, env=clean)
    return seen, re.search(r"\d+ passed.*? in", said).group().removesuffix(" in")


def run(extra=()):
    """Build both, and test them with every Python that is here; one row of the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        call(sys.executable, "-m", "build", "--outdir", folder / "dist", ROOT)
        shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
        (wheel,), (sdist,) = ((folder / "dist").glob(pattern) for pattern in ("*.whl", "*.tar.gz"))
        found = pythons(extra)
        oldest, newest = next(iter(found.values())), list(found.values())[-1]
        jobs = [(oldest, wheel, OLDEST), (newest, sdist, ()), *((python, wheel, ()) for python in found.values())]

        def result(number):
            python, package, versions = jobs[number]
            seen, passed = tested(folder, folder / f"environment{number}", python, package, versions)
            kind = "wheel" if package is wheel else "sdist"
            shown.update()
            return f"{kind}, Python {seen[0]}, NumPy {seen[1]}, Numba {seen[2]}: {passed}"

        with bar(len(jobs), "environments", "install") as shown, ThreadPoolExecutor(os.cpu_count()) as threads:
            results = list(threads.map(result, range(len(jobs))))
    tried = f"the wheel and the sdist in {len(jobs)} empty environments; {', '.join(FILES)} from a copy of the tests"
    return Row("Installation", tried, "; ".join(results), "install")
