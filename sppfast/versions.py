"""What a bug report needs to know about a machine."""

from __future__ import annotations

import sys

PACKAGES = (
    "numpy", "numba", "llvmlite", "ml_dtypes", "cupy", "torch", "torchvision", "jax", "dask", "onnx", "onnxruntime",
    "openvino", "opencv-contrib-python-headless", "scikit-learn",
)  # fmt: skip
WHEELS = {"cupy": ("cupy-cuda13x", "cupy-cuda12x", "cupy")}  # which of them there is depends on CUDA's version


def versions() -> dict[str, str]:
    """Collect versions, backends and GPUs found, threads and SIMD width.

    Returns
    -------
    dict of str
        Name to value.

    Examples
    --------
    >>> import sppfast
    >>> sorted(sppfast.versions())[:3]
    ['cores', 'cpu', 'cupy']
    """
    import platform

    import llvmlite.binding as llvm

    from . import __version__
    from .cores import available_cores

    found = {
        "sppfast": __version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpu": llvm.get_host_cpu_name(),
        "simd": _simd_width(llvm.get_host_cpu_features()),
        "cores": str(available_cores()),
    }
    return found | {"gpu": _gpus()} | {name: _version(name) for name in PACKAGES}


def show_versions() -> None:
    """Print `versions`, for a bug report.

    Examples
    --------
    >>> import sppfast
    >>> sppfast.show_versions()  # doctest: +ELLIPSIS
    sppfast: ...
    """
    for name, value in versions().items():
        print(f"{name}: {value}")


def _version(name: str) -> str:
    import importlib.metadata

    for distribution in WHEELS.get(name, (name,)):
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "not installed"


def _gpus() -> str:
    """Name, compute capability and CUDA versions of the GPUs that CuPy finds."""
    try:
        import cupy

        runtime = cupy.cuda.runtime
        cards = [runtime.getDeviceProperties(i) for i in range(runtime.getDeviceCount())]
        versions = f"driver {runtime.driverGetVersion()}, runtime {runtime.runtimeGetVersion()}"
    except (ImportError, RuntimeError) as error:  # no CuPy, or no driver
        return f"none found ({error})"
    names = [f"{card['name'].decode()} (compute capability {card['major']}.{card['minor']})" for card in cards]
    return ", ".join([*names, versions])


def _simd_width(features: dict[str, bool]) -> str:
    for bits, feature in ((512, "avx512f"), (256, "avx2"), (128, "sse2"), (128, "neon")):
        if features.get(feature):
            return f"{bits} bits ({feature})"
    return "unknown"
