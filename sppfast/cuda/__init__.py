"""The operators on NVIDIA GPUs, by CuPy. Imported only when arrays of CuPy, or of a CUDA device, are in use."""

from .operators import apply
from .windows import unchecked

__all__ = ["apply", "unchecked"]
