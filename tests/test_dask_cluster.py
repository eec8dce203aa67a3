"""Arrays of dask on a cluster of several processes: the same bits, in bounded memory, also when a worker dies."""

import os
import pickle
import signal

import numpy as np
import pytest
from helpers import assert_equal, make, make_rois

import sppfast

da = pytest.importorskip("dask.array", reason="dask is not installed")
db = pytest.importorskip("dask.bag", reason="dask is not installed")
distributed = pytest.importorskip("distributed", reason="distributed is not installed")

pytestmark = pytest.mark.processes

LIMIT = 400 * 2**20  # bytes of memory of a worker


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """Two processes on this machine, which talk by the loopback interface, on ports that are free."""
    options = {"host": "127.0.0.1", "dashboard_address": None, "local_directory": tmp_path_factory.mktemp("dask")}
    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, memory_limit=LIMIT, **options)
    with cluster, distributed.Client(cluster) as client:
        yield client


def peak_memory():
    """Bytes that this process has had at most, in memory."""
    with open("/proc/self/status") as status:
        (line,) = (line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 2**10


def count_worker(path, block):
    """Note which process computes a block."""
    (path / str(os.getpid())).touch()
    return block


def test_equal_to_the_call_in_memory(client, rng, tmp_path):
    x = make(rng, (8, 5, 9, 7), "float32", "spread")
    rois, index = make_rois(rng, 30, (144, 112)), rng.integers(0, 8, 30)
    lazy = da.from_array(x, chunks=(2, 3, 9, 4))
    lazy = lazy.map_blocks(lambda block: count_worker(tmp_path, block), meta=x[:0])
    late = da.from_array(index, chunks=7)
    got = client.compute(
        [
            *sppfast.pool(lazy, return_indices=True),
            sppfast.pool(lazy, mode="avg"),
            sppfast.roi_pool(lazy, rois, batch_index=index),
            sppfast.roi_pool(lazy, rois, batch_index=late),
            sppfast.pool_backward(sppfast.pool(lazy), lazy),
        ],
        sync=True,
    )
    want = [
        *sppfast.pool(x, return_indices=True),
        sppfast.pool(x, mode="avg"),
        sppfast.roi_pool(x, rois, batch_index=index),
        sppfast.roi_pool(x, rois, batch_index=index),
        sppfast.pool_backward(sppfast.pool(x), x),
    ]
    assert_equal(got, want)
    assert len(list(tmp_path.iterdir())) == 2


def source(block_info=None):
    """Maps that can be made anew anywhere: cell i of map n is a number that n and i tell."""
    shape = block_info[None]["chunk-shape"]
    first = block_info[None]["array-location"][0][0]
    return np.stack([one_map(first + n, shape[1:]) for n in range(shape[0])])


def one_map(n, shape):
    return np.random.default_rng(n).random(shape, dtype=np.float32)


def large(count):
    """A batch of maps of 4 MiB each."""
    return da.map_blocks(source, chunks=((4,) * (count // 4), (64,), (128,), (128,)), dtype=np.float32)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="this system does not tell the peak of memory")
def test_memory_is_bounded(client):
    x = large(384)
    assert x.nbytes > 3.5 * LIMIT
    processes = client.run(os.getpid)
    result = sppfast.pool(x).compute()
    assert client.run(os.getpid) == processes, "a worker was restarted"
    assert max(client.run(peak_memory).values()) < LIMIT
    for n in (0, 130, 383):
        assert_equal(result[n], sppfast.pool(one_map(n, x.shape[1:])))


def die_once(path, block, block_info=None):
    """End the process as the system does when it runs out of memory, the first time that block 5 is asked for."""
    if block_info[0]["chunk-location"][0] == 5 and not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return block


@pytest.mark.parametrize("late", [False, True])
def test_a_worker_dies(client, late, rng, tmp_path):
    x = make(rng, (10, 5, 9, 7), "float32", "spread")
    rois, index = make_rois(rng, 40, (144, 112)), np.arange(40) // 4
    lazy = da.from_array(x, chunks=(1, 5, 9, 7))
    lazy = lazy.map_blocks(lambda block, block_info=None: die_once(tmp_path / "died", block, block_info), meta=x[:0])
    result = sppfast.roi_pool(lazy, rois, batch_index=da.from_array(index, chunks=9) if late else index)
    assert_equal(result.compute(), sppfast.roi_pool(x, rois, batch_index=index))
    assert (tmp_path / "died").exists()


# ---- the SPP-net system


def test_detector_and_classifier(client, rng):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    from sppnet_helpers import Blocks, shapes, sliding_windows

    from sppfast.sppnet import SPPClassifier, SPPDetector

    images, boxes, labels = shapes(rng, 8)
    options = {"levels": (2, 1), "scales": (48,), "window_size": 20, "progress": False}
    detector = SPPDetector(Blocks(), proposals=sliding_windows, **options).fit(images, boxes, labels)
    assert_equal(pickle.loads(pickle.dumps(detector)).predict(images[0]), detector.predict(images[0]))
    found = db.from_sequence(images, npartitions=3).map(detector.predict).compute()
    assert_equal(found, [detector.predict(image) for image in images])

    classes = [names[0] for names in labels]
    classifier = SPPClassifier(Blocks(), levels=(2, 1), progress=False).fit(images, classes)
    parts = db.from_sequence(images, npartitions=3).map_partitions(lambda part: classifier.predict(list(part)))
    assert_equal(np.array(parts.compute()), classifier.predict(images))
