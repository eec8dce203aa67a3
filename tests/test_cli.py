"""The command line: files in and out, exit statuses, one-line errors, nothing left behind."""

import csv
import io
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import sppfast
from sppfast import cli
from sppfast.progress import progress


@pytest.fixture
def maps(tmp_path, rng):
    """A file of seven maps, and the maps."""
    x = rng.standard_normal((7, 5, 13, 9), dtype=np.float32)
    np.save(tmp_path / "in.npy", x)
    return tmp_path / "in.npy", x


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def fails(capsys, *arguments):
    """Run a command that must fail with status 1 and one line, and return the line."""
    assert run(*arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("sppfast: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def files(folder):
    return sorted(path.name for path in folder.iterdir())


# ---- pool


def test_pool_writes_what_pool_returns(maps):
    path, x = maps
    out = path.with_name("out.npy")
    assert run("pool", path, out) == 0
    np.testing.assert_array_equal(np.load(out), sppfast.pool(x, (4, 2, 1)))
    assert files(path.parent) == ["in.npy", "out.npy"]


@pytest.mark.parametrize(
    ("text", "levels"),
    [("3", (3,)), ("4,2,1", (4, 2, 1)), ("6,3x2,1", (6, (3, 2), 1)), ("1x5", ((1, 5),)), ("2, 1", (2, 1))],
)
def test_levels(maps, text, levels):
    path, x = maps
    out = path.with_name("out.npy")
    assert run("pool", path, out, "--levels", text) == 0
    np.testing.assert_array_equal(np.load(out), sppfast.pool(x, levels))


@pytest.mark.parametrize("bins", ["adaptive", "sliding", "caffe"])
@pytest.mark.parametrize("mode", ["max", "avg"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_options_reach_pool(maps, mode, bins, layout):
    path, x = maps
    out = path.with_name("out.npy")
    options = {"mode": mode, "bins": bins, "layout": layout, "workers": 1}
    arguments = [text for name, value in options.items() for text in (f"--{name}", value)]
    assert run("pool", path, out, "--levels", "2,1", *arguments) == 0
    np.testing.assert_array_equal(np.load(out), sppfast.pool(x, (2, 1), **options))


@pytest.mark.parametrize("workers", ["-1", "2"])
def test_workers(maps, workers):
    path, x = maps
    out = path.with_name("out.npy")
    assert run("pool", path, out, "--workers", workers) == 0
    np.testing.assert_array_equal(np.load(out), sppfast.pool(x))


@pytest.mark.parametrize("chunk_bytes", [1, 2 * 5 * 13 * 9 * 4, 10**9])
def test_chunks_do_not_change_the_result(maps, monkeypatch, chunk_bytes):
    path, x = maps
    out = path.with_name("out.npy")
    monkeypatch.setattr(cli, "CHUNK_BYTES", chunk_bytes)
    assert run("pool", path, out) == 0
    np.testing.assert_array_equal(np.load(out), sppfast.pool(x))


def test_files_are_memory_mapped(maps, monkeypatch):
    path, _ = maps
    given = []

    def pool(x, *arguments, out=None, **options):
        given.append((x, out))
        return sppfast.pooling.pool(x, *arguments, out=out, **options)

    monkeypatch.setattr(sppfast, "pool", pool)
    assert run("pool", path, path.with_name("out.npy")) == 0
    x, out = given[-1]
    assert isinstance(x, np.memmap)
    assert isinstance(out, np.memmap)


def test_one_map_gives_one_vector(tmp_path, rng):
    x = rng.integers(0, 255, (3, 8, 6), dtype=np.uint8)
    np.save(tmp_path / "in.npy", x)
    assert run("pool", tmp_path / "in.npy", tmp_path / "out.npy", "--mode", "avg") == 0
    out = np.load(tmp_path / "out.npy")
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out, sppfast.pool(x, mode="avg"))


def test_fortran_order_and_big_endian(tmp_path, rng):
    x = np.asfortranarray(rng.standard_normal((4, 3, 8, 6)).astype(">f4"))
    np.save(tmp_path / "in.npy", x)
    assert run("pool", tmp_path / "in.npy", tmp_path / "out.npy") == 0
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), sppfast.pool(x))


def test_empty_batch(tmp_path):
    np.save(tmp_path / "in.npy", np.ones((0, 3, 8, 6), np.float32))
    assert run("pool", tmp_path / "in.npy", tmp_path / "out.npy") == 0
    assert np.load(tmp_path / "out.npy").shape == (0, 63)


def test_out_may_be_in_or_a_link(maps):
    path, x = maps
    link = path.with_name("link.npy")
    link.symlink_to(path)
    assert run("pool", path, link) == 0
    assert link.is_symlink()
    np.testing.assert_array_equal(np.load(path), sppfast.pool(x))


def test_without_tqdm(maps, monkeypatch):
    path, x = maps
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert run("pool", path, path.with_name("out.npy")) == 0
    np.testing.assert_array_equal(np.load(path.with_name("out.npy")), sppfast.pool(x))


def test_progress_on_a_terminal(monkeypatch):
    pytest.importorskip("tqdm")

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress(10, "maps") as bar:
        bar.update(1)
        assert terminal.getvalue() == ""
        time.sleep(1.1)
        bar.update(4)
        assert "5/10" in terminal.getvalue()


def test_silent_when_stderr_is_no_terminal(maps, capsys):
    path, _ = maps
    assert run("pool", path, path.with_name("out.npy")) == 0
    assert capsys.readouterr() == ("", "")


# ---- detect


@pytest.fixture
def detector(tmp_path):
    """A detector of coloured squares in a file, and an image of two."""
    for module in ("cv2", "onnxruntime", "sklearn"):
        pytest.importorskip(module)
    from sppnet_helpers import shapes

    from sppfast.sppnet import SPPDetector, digits
    from sppfast.sppnet.demo import write_png

    scenes = shapes(np.random.default_rng(1), 12)
    options = {"levels": (2, 1), "scales": (96,), "window_size": 40}
    SPPDetector(digits.digits_backbone(), **options).fit(*scenes).save(tmp_path / "model.npz")
    write_png(scenes[0][0], tmp_path / "squares.png")
    return tmp_path / "model.npz", tmp_path / "squares.png"


def test_detect_draws_and_lists_what_predict_finds(detector, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    from sppfast.sppnet import SPPDetector
    from sppfast.sppnet.images import read_image

    model, image = detector
    assert run("detect", image, "--model", model, "--out", tmp_path / "found", "--score", "-0.5") == 0
    assert files(tmp_path / "found") == ["detections.csv", "squares.png"]
    assert (tmp_path / "found" / "squares.png").read_bytes().startswith(b"\x89PNG")
    boxes, scores, labels = SPPDetector.load(model).set_params(score_threshold=-0.5).predict(read_image(image))
    assert len(boxes)
    head, *rows = csv.reader((tmp_path / "found" / "detections.csv").read_text().splitlines())
    assert head == ["image", "label", "score", "x0", "y0", "x1", "y1"]
    assert [row[:2] for row in rows] == [[str(image), str(label)] for label in labels]
    np.testing.assert_allclose([[float(n) for n in row[2:]] for row in rows], np.c_[scores, boxes], atol=0.006)
    assert f"{len(boxes)} found -> " in capsys.readouterr().out


def test_detect_fails_with_one_line(detector, tmp_path, capsys):
    model, image = detector
    out = tmp_path / "found"
    (tmp_path / "bad.png").write_bytes(b"no image")
    (tmp_path / "bad.npz").write_bytes(model.read_bytes()[:5000])
    assert "none.png: No such file" in fails(capsys, "detect", tmp_path / "none.png", "--model", model, "--out", out)
    assert "bad.png: not an image" in fails(capsys, "detect", tmp_path / "bad.png", "--model", model, "--out", out)
    assert "bad.npz: not a file" in fails(capsys, "detect", image, "--model", tmp_path / "bad.npz", "--out", out)
    assert "would replace" in fails(capsys, "detect", image, "--model", model, "--out", tmp_path)
    assert "would replace" in fails(capsys, "detect", image, image, "--model", model, "--out", out)
    assert files(out) == []


def test_detect_says_what_to_install(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    line = fails(capsys, "detect", "a.png", "--model", "m.npz", "--out", tmp_path / "found")
    assert "sppfast[sppnet]" in line
    assert files(tmp_path) == []


# ---- bad files and data


def test_missing_file(tmp_path, capsys):
    assert "none.npy: No such file" in fails(capsys, "pool", tmp_path / "none.npy", tmp_path / "out.npy")
    assert files(tmp_path) == []


def test_not_an_npy_file(tmp_path, capsys):
    (tmp_path / "in.npy").write_bytes(b"this is no array")
    assert "in.npy: " in fails(capsys, "pool", tmp_path / "in.npy", tmp_path / "out.npy")
    assert files(tmp_path) == ["in.npy"]


def test_truncated_file(maps, capsys):
    path, _ = maps
    os.truncate(path, 1000)
    assert "in.npy: " in fails(capsys, "pool", path, path.with_name("out.npy"))
    assert files(path.parent) == ["in.npy"]


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ones((2, 3, 4, 4), np.complex64), "complex64"),
        (np.ones((4, 4), np.float32), "(4, 4)"),
        (np.ones((2, 3, 0, 4), np.float32), "0, 4)"),
        (np.array([{}]), "object"),
    ],
)
def test_data_that_cannot_be_pooled(tmp_path, capsys, x, message):
    np.save(tmp_path / "in.npy", x, allow_pickle=True)
    assert message in fails(capsys, "pool", tmp_path / "in.npy", tmp_path / "out.npy")
    assert files(tmp_path) == ["in.npy"]


def test_folder_of_out_is_missing(maps, capsys):
    path, _ = maps
    assert "nowhere/out.npy: No such file" in fails(capsys, "pool", path, path.with_name("nowhere") / "out.npy")


def test_out_is_a_folder(maps, capsys):
    path, _ = maps
    assert "not a regular file" in fails(capsys, "pool", path, path.parent)
    assert files(path.parent) == ["in.npy"]


def stop_at_second_chunk(monkeypatch, stop):
    """Let `stop` run in the middle of the work."""
    real, calls = sppfast.pool, []

    def pool(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:  # the first call only checks
            stop()
        return real(*arguments, **options)

    monkeypatch.setattr(cli, "CHUNK_BYTES", 1)
    monkeypatch.setattr(sppfast, "pool", pool)


def test_failure_leaves_the_old_file_and_no_other(maps, monkeypatch, capsys):
    path, _ = maps
    out = path.with_name("out.npy")
    out.write_bytes(b"old")

    def stop():
        raise MemoryError("no memory left")

    stop_at_second_chunk(monkeypatch, stop)
    assert "no memory left" in fails(capsys, "pool", path, out)
    assert files(path.parent) == ["in.npy", "out.npy"]
    assert out.read_bytes() == b"old"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_leaves_no_file(maps, monkeypatch, capsys, number):
    path, _ = maps
    handler = signal.getsignal(signal.SIGTERM)
    stop_at_second_chunk(monkeypatch, lambda: os.kill(os.getpid(), number))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        assert run("pool", path, path.with_name("out.npy")) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "sppfast: interrupted\n"
    assert files(path.parent) == ["in.npy"]
    assert signal.getsignal(signal.SIGTERM) is handler


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="space is claimed only where the system can")
def test_full_disk(maps, monkeypatch, capsys):
    path, _ = maps

    def posix_fallocate(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", posix_fallocate)
    assert "out.npy: No space left on device" in fails(capsys, "pool", path, path.with_name("out.npy"))
    assert files(path.parent) == ["in.npy"]


# ---- usage


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["median"],
        ["pool"],
        ["pool", "in.npy"],
        ["pool", "in.npy", "out.npy", "more.npy"],
        ["pool", "in.npy", "out.npy", "--levels", "4,two"],
        ["pool", "in.npy", "out.npy", "--levels", "4,0"],
        ["pool", "in.npy", "out.npy", "--levels", "-1"],
        ["pool", "in.npy", "out.npy", "--levels", "3x2x1"],
        ["pool", "in.npy", "out.npy", "--levels", ""],
        ["pool", "in.npy", "out.npy", "--mode", "median"],
        ["pool", "in.npy", "out.npy", "--bins", "round"],
        ["pool", "in.npy", "out.npy", "--layout", "CHWN"],
        ["pool", "in.npy", "out.npy", "--workers", "0"],
        ["pool", "in.npy", "out.npy", "--workers", "two"],
        ["detect"],
        ["detect", "a.png"],
        ["detect", "a.png", "--model", "m.npz"],
        ["detect", "--model", "m.npz", "--out", "found"],
        ["detect", "a.png", "--model", "m.npz", "--out", "found", "--score", "high"],
        ["info", "now"],
        ["bench", "--rows", "("],
        ["bench", "--seconds", "-1"],
        ["bench", "--threads", "0"],
        ["demo", "--in", "here"],
    ],
)
def test_usage_error_is_one_line_and_status_2(capsys, arguments):
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    captured = capsys.readouterr()
    assert stopped.value.code == 2
    assert captured.out == ""
    assert captured.err.startswith("sppfast: error: ")
    assert captured.err.count("\n") == 1


def test_help_and_version(capsys):
    for arguments, text in (
        (["--help"], "COMMAND"),
        (["pool", "--help"], "--levels"),
        (["--version"], "sppfast "),
    ):
        with pytest.raises(SystemExit) as stopped:
            run(*arguments)
        assert stopped.value.code == 0
        assert text in capsys.readouterr().out


# ---- info, demo, python -m


def test_info(capsys):
    assert run("info") == 0
    printed = capsys.readouterr().out
    assert sppfast.__version__ in printed
    assert np.__version__ in printed


def test_demo_says_what_to_install(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "sppfast[demo]" in fails(capsys, "demo", "--out", tmp_path / "picture")
    assert files(tmp_path) == []


def test_demo_draws_the_bins(tmp_path, rng):
    pytest.importorskip("matplotlib")
    from sppfast import demo

    photograph = rng.integers(0, 255, (60, 75, 3), dtype=np.uint8)
    x = demo.feature_map(photograph)
    assert x.shape == (48, 7, 9)
    assert x.dtype == np.float32
    demo.draw(photograph, x, tmp_path / "bins.png")
    assert (tmp_path / "bins.png").read_bytes().startswith(b"\x89PNG")


def test_python_m(maps):
    path, x = maps
    command = [sys.executable, "-m", "sppfast", "pool", path, path.with_name("out.npy"), "--levels", "3"]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    np.testing.assert_array_equal(np.load(path.with_name("out.npy")), sppfast.pool(x, 3))


def test_python_m_usage_error():
    done = subprocess.run([sys.executable, "-m", "sppfast", "pool"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("sppfast: error: ")
    assert done.stderr.count("\n") == 1
