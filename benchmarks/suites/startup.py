"""Import and first call, each in a process of its own that has imported NumPy."""

MAPS = "import numpy; x = numpy.ones((1, 8, 13, 13), numpy.float32)"
CALL = "import sppfast; sppfast.pool(x)"
EMPTY_CACHE = """
import os, tempfile
folder = tempfile.TemporaryDirectory()
os.environ["NUMBA_CACHE_DIR"] = folder.name
"""


class Startup:
    """Seconds before the first result."""

    number = 1
    repeat = 4

    def timeraw_import(self):
        return "import sppfast", MAPS

    def timeraw_first_call(self):
        """With the kernel in the cache on disk."""
        return CALL, MAPS

    def timeraw_first_call_compiles(self):
        return CALL, EMPTY_CACHE + MAPS
