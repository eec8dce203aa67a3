"""How many threads are started: affinity and the quotas of control groups."""

import os
import sys

import numpy as np
import pytest

import sppfast
from sppfast import cores
from sppfast.cores import available_cores, cgroup_cores


@pytest.fixture
def tree(tmp_path):
    """Write a process's membership and the files of a tree of groups; give what `cgroup_cores` takes."""

    def write(membership, **quotas):
        (tmp_path / "membership").write_text(membership)
        for group, quota in quotas.items():
            path = tmp_path / "cgroup" / group.replace("_", "/").strip("/")
            path.mkdir(parents=True, exist_ok=True)
            (path / "cpu.max").write_text(quota + "\n")
        return tmp_path / "membership", tmp_path / "cgroup"

    return write


@pytest.mark.parametrize(
    ("quota", "want"),
    [("200000 100000", 2), ("150000 100000", 2), ("1000 100000", 1), ("max 100000", sys.maxsize), ("", sys.maxsize)],
)
def test_quota_of_a_group(tree, quota, want):
    assert cgroup_cores(*tree("0::/slice/job\n", slice_job=quota)) == want


def test_the_least_quota_of_all_groups_around(tree):
    groups = {"slice_job": "800000 100000", "slice": "300000 100000", "_": "max 100000", "other": "1000 100000"}
    assert cgroup_cores(*tree("3:cpuset:/\n0::/slice/job\n", **groups)) == 3


def test_the_root_of_a_container(tree):
    assert cgroup_cores(*tree("0::/\n", _="400000 100000")) == 4


def test_no_groups(tree, tmp_path):
    assert cgroup_cores(tmp_path / "none", tmp_path) == sys.maxsize
    assert cgroup_cores(*tree("1:cpu:/\n")) == sys.maxsize
    assert cgroup_cores(*tree("0::/gone\n")) == sys.maxsize


def test_a_quota_bounds_the_threads(monkeypatch):
    monkeypatch.setattr(cores, "_quota", lambda: 1)
    assert available_cores() == 1
    with pytest.raises(ValueError, match="leaves no thread of 1"):
        sppfast.pool(np.zeros((1, 3, 3)), workers=-2)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_affinity_is_respected():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert available_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert available_cores() == min(len(before), cores._quota())
