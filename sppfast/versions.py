"""What a bug report needs to know about a machine."""

from __future__ import annotations

import sys

PACKAGES = (
    "numpy", "numba", "llvmlite", "ml_dtypes", "cupy", "torch", "torchvision", "jax", "dask", "onnx", "onnxruntime",
    "openvino", "opencv-contrib-python-headless", "scikit-learn",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Collect versions, backends found, threads and SIMD width.

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
    return found | {name: _version(name) for name in PACKAGES}


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

    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _simd_width(features: dict[str, bool]) -> str:
    for bits, feature in ((512, "avx512f"), (256, "avx2"), (128, "sse2"), (128, "neon")):
        if features.get(feature):
            return f"{bits} bits ({feature})"
    return "unknown"
