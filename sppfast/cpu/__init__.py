"""The CPU backend: Numba kernels. Importing it imports Numba, so it is imported on first use."""
