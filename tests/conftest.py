"""Profiles, markers and fixtures that every test module shares."""

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from sppfast import arrays

pytest_plugins = ["cuda_emulation.fixture"]

COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}
settings.register_profile("quick", max_examples=30, derandomize=True, **COMMON)
settings.register_profile("thorough", max_examples=1000, **COMMON)
settings.load_profile(os.environ.get("SPPFAST_TEST_PROFILE", "quick"))


def pytest_configure(config):
    config.addinivalue_line("markers", "peers: compares with another library, where it is installed")
    config.addinivalue_line("markers", "gpu: runs on an NVIDIA GPU, where there is one")
    config.addinivalue_line("markers", "processes: starts processes or many threads; takes seconds")


@pytest.fixture
def rng():
    """The same random numbers for the same test, every time."""
    return np.random.default_rng(20140618)


@pytest.fixture
def forget():
    """Forget what was found by limits that a test changes: when it is called, and at the end."""
    yield arrays.forget
    arrays.forget()
