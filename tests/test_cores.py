"""How many threads are started: affinity and the quotas of control groups."""

import os
import sys
from pathlib import Path

import numpy as np
import processes
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


@pytest.fixture
def group():
    """A real group of version 1, around this one's, and how to set its quota."""
    path = Path("/sys/fs/cgroup/cpu") / f"sppfast-test-{os.getpid()}"
    try:
        path.mkdir()
    except OSError as error:
        pytest.skip(f"no control group of version 1 can be made: {error}")
    yield path
    path.rmdir()


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


@pytest.mark.parametrize(("quota", "want"), [(250_000, 3), (1, 1), (-1, sys.maxsize)])
@pytest.mark.parametrize("controllers", ["cpu", "cpu,cpuacct", "cpuacct,cpu"])
def test_quota_of_version_1(tmp_path, controllers, quota, want):
    """Of a container, which sees its own group at the root, whatever its name outside."""
    (tmp_path / "membership").write_text(f"7:freezer:/\n4:{controllers}:/docker/2a7f\n3:cpuset:/docker/2a7f\n0::/\n")
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert cgroup_cores(tmp_path / "membership", tmp_path) == want


def test_a_real_quota_of_version_1(group):
    """A process in a group of one and a half cores, on a machine of any number."""
    code = "import sys, sppfast.cores as c; open(sys.argv[1], 'w').write('0'); print(c._quota())"
    (group / "cpu.cfs_quota_us").write_text("150000")
    assert processes.finish(processes.start("-c", code, str(group / "tasks"))) == "2"
    (group / "cpu.cfs_quota_us").write_text("-1")
    assert processes.finish(processes.start("-c", code, str(group / "tasks"))) == str(sys.maxsize)


def test_no_groups(tree, tmp_path):
    assert cgroup_cores(tmp_path / "none", tmp_path) == sys.maxsize
    assert cgroup_cores(*tree("1:cpu:/\n")) == sys.maxsize
    assert cgroup_cores(*tree("0::/gone\n")) == sys.maxsize


def test_a_quota_bounds_the_threads(monkeypatch):
    monkeypatch.setattr(cores, "_quota", lambda: 1)
    assert available_cores() == 1
    with pytest.raises(ValueError, match="leaves no thread of 1"):
        sppfast.pool(np.zeros((1, 3, 3)), workers=-2)


needs_affinity = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")


@needs_affinity
def test_affinity_is_respected():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert available_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert available_cores() == min(len(before), cores._quota())


@needs_affinity
@pytest.mark.parametrize(("workers", "threads"), [(None, 0), (2, 1), (1000, 3)])
def test_threads_on_one_core(workers, threads):
    """None are started for one core, and no more than four for each when more workers are asked for."""
    code = f"""
    os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
    x = np.zeros((64, 64, 13, 13), np.float32)
    sppfast.pool(x, workers=1)
    before = len(os.listdir("/proc/self/task"))
    sppfast.pool(x, workers={workers})
    print(len(os.listdir("/proc/self/task")) - before)
    """
    assert processes.run(code) == str(threads)
