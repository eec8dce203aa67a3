"""`sppfast bench`, on little work: every kind of row, what is written, and what may be missing or wrong."""

import json
import runpy
import sys
import types
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import sppfast
from sppfast import cli
from sppfast.bench import devices, peers, timing, work

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
LITTLE = (
    work.Row("pool", partial(work.pool_case, (2, 3, 9, 7), (2, 1)), brief=True),
    work.Row("equal bins", partial(work.pool_case, (1, 3, 8, 8), (4, 2, 1)), brief=True),
    work.Row("RoI", partial(work.roi_case, 5, (2, 1))),
    work.Row("RoI, SSE", partial(work.sse_case, 5, (3, 1))),
    work.Row("align", partial(work.align_case, 5, (9, 7), 16)),
    work.Row("align a pyramid", partial(work.pyramid_case, 20, (160, 200), 8)),
    work.Row("gradient max", partial(work.pool_backward_case, (2, 3, 9, 7), (2, 1), "max")),
    work.Row("gradient avg", partial(work.pool_backward_case, (2, 3, 9, 7), (2, 1), "avg")),
    work.Row("gradient RoI", partial(work.roi_backward_case, 5)),
    work.Row("gradient align", partial(work.align_backward_case, 5)),
)
# Which rows each peer has.
ROWS_OF = {
    "torch": {"pool", "equal bins", "gradient max", "gradient avg"},
    "torchvision": {"RoI", "align", "align a pyramid", "gradient RoI", "gradient align"},
    "openvino": {"pool", "equal bins", "RoI", "align", "align a pyramid"},
    "onnxruntime": {"equal bins", "RoI", "align", "align a pyramid"},
    "cv2": {"equal bins", "align", "align a pyramid"},
    "C": {"RoI, SSE", "gradient RoI", "gradient align"},
}


@pytest.fixture(autouse=True)
def _little_work(monkeypatch):
    monkeypatch.setattr(work, "ROWS", LITTLE)


def bench(folder, *arguments):
    """Run the command quickly, and return what it writes."""
    path = folder / "figures.json"
    assert cli.main(["bench", "--seconds", "0", "--json", str(path), *map(str, arguments)]) == 0
    return json.loads(path.read_text())


@pytest.mark.peers
def test_every_row_beside_every_peer(tmp_path, capsys):
    """Each peer that is installed computes what sppfast computes, and is timed."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    measured = bench(tmp_path, "--all", "--threads", 2, "--plot", tmp_path / "ratios.png")
    assert (tmp_path / "ratios.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figures.json", "ratios.png"]
    assert (measured["device"], measured["threads"]) == ("cpu", 2)
    there = peers.installed(devices.Cpu(2))
    printed = capsys.readouterr().out
    for row in measured["rows"]:
        expected = {name for name in there if row["row"] in ROWS_OF[name]}
        assert row["failed"].keys() <= {"torchvision", "cv2"}  # which may be made for another torch, or be too old
        assert row["differ"] == dict.fromkeys(sorted(expected - row["failed"].keys(), key=there.index), 0.0), row["row"]
        assert row["ms"].keys() == {"sppfast", "out=", "bound", *row["differ"]}
        assert all(ms > 0 for ms in row["ms"].values())
        for name in row["differ"]:
            assert row["ratio"][name] == pytest.approx(row["ms"][name] / row["ms"]["sppfast"])
        assert row["ratio"]["bound"] == pytest.approx(row["ms"]["out="] / row["ms"]["bound"])
        assert f"\n{row['row']} " in printed
    assert "differ" not in printed


def test_the_short_table_and_rows_by_name(tmp_path):
    assert [row["row"] for row in bench(tmp_path)["rows"]] == ["pool", "equal bins"]
    assert [row["row"] for row in bench(tmp_path, "--rows", "^equal")["rows"]] == ["equal bins"]


@pytest.mark.parametrize("there", [[], ["C"]])  # a compiler is no library
def test_without_peers(there, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(peers, "installed", lambda device: there)
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    measured = bench(tmp_path, "--plot", tmp_path / "alone.png")
    assert all(row["ms"].keys() == {"sppfast", "out=", "bound"} for row in measured["rows"])
    assert "sppfast[bench]" in capsys.readouterr().out


def test_what_counts_as_installed(monkeypatch):
    monkeypatch.setattr(peers, "_has_compiler", lambda: False)
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: name in ("torch", "onnxruntime") or None)
    assert peers.installed(devices.Cpu(1)) == ["torch"]  # ONNX Runtime's models are made by onnx


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        (lambda x, levels, device: 1 / 0, "torch was left out: ZeroDivisionError: division by zero"),
        (lambda x, levels, device: lambda: np.ones(4), "torch was left out: ValueError: cannot reshape"),
        (lambda x, levels, device: lambda: np.zeros((2, 15)), "torch: 100.000% of the values differ"),
    ],
    ids=["fails", "another shape", "other values"],
)
def test_a_peer_that_is_wrong(tmp_path, monkeypatch, capsys, wrong, line):
    monkeypatch.setattr(peers, "installed", lambda device: ["torch"])
    monkeypatch.setattr(peers, "torch_pool", wrong)
    row = bench(tmp_path, "--rows", "^pool")["rows"][0]
    assert ("torch" in row["failed"]) == ("torch" not in row["ms"]) == ("left out" in line)
    assert line in capsys.readouterr().out


def test_on_a_gpu(tmp_path, monkeypatch, capsys):
    """With a stand-in for CuPy: what is timed are its arrays, and the peers are those that run on a GPU."""
    waits = []
    device = types.SimpleNamespace(synchronize=lambda: waits.append(1))
    names = ("asarray", "zeros", "zeros_like", "copyto")
    cupy = types.SimpleNamespace(**{name: getattr(np, name) for name in names}, asnumpy=np.asarray)
    versions = {f"{name}GetVersion": lambda: 13000 for name in ("driver", "runtime")}
    runtime = types.SimpleNamespace(getDeviceCount=lambda: 0, **versions)
    cupy.from_dlpack, cupy.cuda = np.asarray, types.SimpleNamespace(Device=lambda: device, runtime=runtime)
    cupy.__spec__ = object()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    measured = bench(tmp_path, "--gpu", "--all", "--rows", "^(pool|RoI|align)$")
    assert measured["device"] == "cuda"
    for row in measured["rows"]:
        assert row["ms"].keys() - {"torch", "torchvision"} == {"sppfast", "out=", "bound"}
    assert waits
    assert "on the GPU" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "median"], "--rows median: no row has such a name"),
        (["--json", "nowhere/figures.json"], "nowhere: No such file"),
        (["--plot", "nowhere/ratios.png"], "nowhere: No such file"),
    ],
)
def test_errors_come_before_the_work(monkeypatch, capsys, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sppfast.bench.measure", None)
    assert cli.main(["bench", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_plot_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.main(["bench", "--plot", "ratios.png"]) == 1
    assert "sppfast[bench]" in capsys.readouterr().err


def test_the_rows_have_names_of_their_own(monkeypatch):
    monkeypatch.undo()
    names = [row.name for row in work.ROWS]
    assert len(set(names)) == len(names)
    assert sum(row.brief for row in work.ROWS) < len(names)


def test_calls_take_turns():
    done = []
    calls = {name: partial(done.append, name) for name in "ab"}
    found = timing.samples(calls, 0, lambda: done.append("wait"))
    assert {name: len(times) for name, times in found.items()} == {"a": timing.ROUNDS, "b": timing.ROUNDS}
    turns = [name for i, name in enumerate(done) if name != "wait" and name not in done[max(0, i - 2) : i]]
    assert turns == ["a", "b"] * (1 + timing.ROUNDS)
    assert done[-1] == "wait"


# ---- the sweep


def load(name):
    """Load a benchmark: what it defines."""
    return runpy.run_path(str(BENCHMARKS / name))


@pytest.fixture
def sweep():
    return load("sweep.py")


def test_sweep_marks_a_jump(sweep):
    curve = sweep["Curve"]("channels", sweep["Work"](), "channels", (1, 2, 4, 8, 16))
    points = [{"value": n, "variant": "", "ms": n * (10 if n > 4 else 1)} for n in curve.values]
    sweep["mark"](curve, points)
    assert [round(point.get("off", 1), 2) for point in points] == [1, 1, 0.32, 3.16, 1]
    assert [sweep["marked"](point) for point in points] == [False, False, True, True, False]


def test_sweep_marks_a_slow_variant(sweep):
    curve = sweep["Curve"]("dtype", sweep["Work"](), "dtype", ("float32", "int8"), {"max": {}, "avg": {"mode": "avg"}})
    times = {("float32", "max"): 4, ("float32", "avg"): 4, ("int8", "max"): 1, ("int8", "avg"): 3.5}
    points = [{"value": v, "variant": m, "ms": t, "bytes": 4 if v == "float32" else 1} for (v, m), t in times.items()]
    sweep["mark"](curve, points)
    assert [sweep["marked"](point) for point in points] == [False, False, False, True]


@pytest.mark.parametrize("operator", ["pool", "roi_pool", "roi_align"])
def test_sweep_builds_its_work(sweep, operator):
    options = {"channels": 5, "size": (4, 3), "windows": 6, "batch": 2, "layout": "NHWC", "levels": (2,)}
    call, elements, read, written = sweep["Work"](operator, **options, mode="avg").build()
    assert call().nbytes == written
    assert read == 4 * 2 * 5 * 12
    assert elements == (2 * 5 * 12 if operator == "pool" else 6 * 5 * 4)


def test_sweep_takes_maps_from_memory(sweep, monkeypatch):
    """Others in each call, until it is the first one's turn again."""
    pooled = []
    monkeypatch.setattr(sppfast, "pool", lambda x, **options: pooled.append(x) or x)
    call, _, read, _ = sweep["Work"](channels=3, size=(5, 4)).build(memory=2 * 4 * 60)
    for _ in range(4):
        call()
    _, *taken = map(id, pooled)  # the first makes room for the result
    assert read == 4 * 60
    assert taken[0] == taken[3]
    assert len(set(taken)) == 3


def test_sweep_runs(sweep, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    base = sweep["Work"](channels=3, size=(5, 4))
    main = sweep["main"]
    monkeypatch.setitem(main.__globals__, "BANDWIDTH_BYTES", 2**20)
    monkeypatch.setitem(main.__globals__, "CURVES", [sweep["Curve"]("few", base, "batch", (1, 2), sweep["LAYOUTS"])])
    arguments = ["sweep.py", "--seconds", "0", "--json", str(tmp_path / "f.json"), "--plots", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    assert main() == 0
    (curve,) = json.loads((tmp_path / "f.json").read_text())["curves"]
    assert [(point["value"], point["variant"]) for point in curve["points"]] == [
        (1, "NCHW"), (1, "NHWC"), (2, "NCHW"), (2, "NHWC"),
    ]  # fmt: skip
    assert all(point["ms"] > 0 and point["bound_ms"] > 0 for point in curve["points"])
    assert (tmp_path / "cost-pool.png").read_bytes().startswith(b"\x89PNG")
    assert "of 4 points are marked" in capsys.readouterr().out


# ---- the grid


def test_grid_puts_the_least_favourable_point_first(monkeypatch, capsys):
    main = load("grid.py")["main"]
    fields = main.__globals__
    times = {1: 3.0, 2: 1.0, 3: 2.0}

    def measure(row, device, seconds):
        case = row.build(device)
        assert set(case.peers) == {"openvino"}
        ratio = times[len(case.ours())]
        return {"row": row.name, "ms": {"sppfast": 1, "openvino": ratio}, "ratio": {"openvino": ratio}}

    few = {"CHANNELS": (3,), "MAPS": ((4, 5),), "WINDOWS": tuple(times), "BINS": (2,), "measure": measure}
    for name, value in few.items():
        monkeypatch.setitem(fields, name, value)
    monkeypatch.setattr(fields["peers"], "load", lambda device: None)
    monkeypatch.setattr(sys, "argv", ["grid.py", "--least", "2"])
    main()
    first, second, last = capsys.readouterr().out.splitlines()
    assert first.startswith("    2 windows") and first.endswith("1.00x")
    assert second.startswith("    3 windows")
    assert last == "3 points: median 2.00x, slower than OpenVINO at 0"


# ---- pauses


def test_pauses_times_one_thread_and_all(monkeypatch, capsys):
    main = load("pauses.py")["main"]
    monkeypatch.setitem(main.__globals__, "MAPS", ((1, 2, 3, 4),))
    monkeypatch.setitem(main.__globals__, "WINDOWS", ((5, 2, 13),))
    monkeypatch.setattr(sys, "argv", ["pauses.py", "--seconds", "0", "--pause", "0.001"])
    main()
    head, *rows = capsys.readouterr().out.splitlines()
    assert "pauses of 1000" in head
    assert [row.split("  ")[0] for row in rows] == ["pool 1x2x3x4", "5 windows, 7x7, map 2x13x13"]
    for row in rows:
        one, every, ratio, *_ = row[36:].split()
        assert float(ratio[:-1]) == pytest.approx(float(one) / float(every), rel=0.3, abs=0.1)


# ---- sizes


def test_sizes_times_maps_of_any_size(monkeypatch, capsys):
    main = load("sizes.py")["main"]
    monkeypatch.setitem(main.__globals__, "COUNT", 20)
    monkeypatch.setattr(sys, "argv", ["sizes.py", "--seconds", "0"])
    main()
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["us", "any", "size", "one", "size"]
    assert [row[:28].strip() for row in rows][:2] == ["pool", "pool, mean"]
    for row in rows:
        assert all(float(us) > 0 for us in row[28:].split())
