"""Pool a Zarr store of feature maps, larger than memory if need be, to a Zarr store of vectors.

    python docs/examples/zarr_features.py                      # makes a small store first
    python docs/examples/zarr_features.py MAPS.zarr VECTORS.zarr --levels 6 3 2 1

Maps (N, C, H, W) are read chunk by chunk, and a chunk of vectors is written as soon as it is pooled. Needs dask and
Zarr (pip install "sppfast[dask]" zarr).
"""

import argparse
import tempfile
from pathlib import Path

import dask.array as da
from dask.diagnostics import ProgressBar

import sppfast


def make_maps(path, count=64):
    """Write random maps, eight in a chunk."""
    maps = da.random.default_rng(0).random((count, 256, 13, 13), chunks=(8, 256, 13, 13), dtype="float32")
    maps.to_zarr(path)


def pool_store(maps, vectors, levels=(4, 2, 1)):
    """Pool one store to another, with a progress bar, and return the shape of the vectors."""
    lazy = sppfast.pool(da.from_zarr(maps), levels)
    with ProgressBar():
        lazy.to_zarr(vectors)
    return lazy.shape


def main(arguments=None):
    """Read the command line; without stores, make some in a folder that does not stay."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("maps", nargs="?", help="Zarr array (N, C, H, W)")
    parser.add_argument("vectors", nargs="?", help="Zarr array to make")
    parser.add_argument("--levels", nargs="+", type=int, default=[4, 2, 1], metavar="N", help="[4 2 1]")
    options = parser.parse_args(arguments)
    if options.maps and not options.vectors:
        parser.error("VECTORS is missing")
    with tempfile.TemporaryDirectory() as folder:
        maps, vectors = options.maps, options.vectors
        if not maps:
            maps, vectors = str(Path(folder, "maps.zarr")), str(Path(folder, "vectors.zarr"))
            make_maps(maps)
        shape = pool_store(maps, vectors, options.levels)
    print(f"{maps} -> {vectors}: {shape[0]} vectors of {shape[1]}")


if __name__ == "__main__":
    main()
