"""Wrong arguments: for each name functions from a case to a wrong value, and the names that an error may blame."""

import numpy as np

NAN, INF = float("nan"), float("inf")
OBJECT = object()


def values(name, *wrong):
    """Values that are wrong in any call."""
    return [lambda case, choice, value=value: (value, (name,)) for value in wrong]


def like_x(change):
    """Maps that were right and are changed."""

    def make(case, choice):
        maps = [change(m) for m in case.maps]
        return maps if case.ragged else maps[0], ("x",)

    return make


def another_map(change):
    """A ragged batch whose last map does not fit the first."""

    def make(case, choice):
        first = case.maps[0] if case.maps[0].ndim == 3 else np.zeros((2, 3, 4), np.float32)
        return [first, change(first)], ("x",)

    return make


X = [
    *values("x", None, "image", b"x", 3.0, OBJECT, {1: 2}, {1, 2}, [], (), [None], ["map"], [[1.0]]),
    *values("x", *(np.zeros(shape, np.float32) for shape in ((), (5,), (4, 5), (1, 2, 3, 4, 5)))),
    *values("x", *(np.zeros(shape, np.float32) for shape in ((3, 0, 5), (2, 3, 5, 0), (2, 0, 4, 4), (0, 5, 5)))),
    *(like_x(lambda m, dtype=dtype: np.zeros(m.shape, dtype)) for dtype in ("c8", "O", "U3", "S3", "M8[s]", "V4", "g")),
    like_x(lambda m: np.zeros(m.shape, [("r", "f4")])),
    like_x(lambda m: np.ma.masked_array(np.zeros(m.shape))),
    another_map(lambda m: np.zeros([side + 1 for side in m.shape], m.dtype)),
    another_map(lambda m: np.zeros(m.shape, "f8" if m.dtype.name == "float32" else "f4")),
    another_map(lambda m: m[None]),
    another_map(lambda m: m[:, :, :0]),
    another_map(lambda m: None),
]


def strings(name):
    """What is none of an option's strings."""
    return values(name, "median", "", "MAX", None, 3, b"max", ["max"], ("max",), NAN, OBJECT, np.zeros(3), "x" * 1000)


LEVELS = values(
    "levels",
    *((), [], 0, -1, (4, 0), ((0, 2),), ((2, -3),), ((1, 2, 3),), ((1,),), (4, ()), 2.5, (4, 2.0), "4", b"4", ("4", 2)),
    *(None, (4, None), True, (2, False), NAN, INF, 2**40, 2**70, ((2**20, 2**20),), OBJECT, 1j, {"a": 1}, [[[1]]]),
    *(np.zeros(3), np.zeros((2, 2)), np.array([1.0]), np.datetime64("2020-01-01"), -(2**63)),
)
WORKER_VALUES = values("workers", 0, -(10**6), 1.5, 2.0, "2", (1,), True, False, OBJECT, NAN, np.zeros(2), b"1", 1j)


def wrong_out(change):
    """An `out` that was right and is changed."""

    def make(case, choice):
        outs = [change(np.zeros(shape, dtype)) for shape, dtype in case.result_shapes()]
        if case.backward:
            return outs if case.ragged else outs[0], ("out",)
        return choice.choice((outs[0], tuple(outs))) if len(outs) == 2 else outs[0], ("out",)

    return make


def read_only(array):
    """An array that may not be written."""
    array.flags.writeable = False
    return array


OUT = [
    *values("out", "result", 3.0, {}, OBJECT, (1, 2, 3), [[0.0]], np.float32(3)),
    *map(wrong_out, (lambda o: o[None], lambda o: o.ravel()[:-1] if o.size else o[None], lambda o: o.astype("c16"))),
    *map(wrong_out, (lambda o: o.tolist(), read_only, lambda o: o.view(f"V{o.itemsize}"))),
]


def windows(change):
    """Windows with their batch index, one of them changed."""

    def make(case, choice):
        rois = np.array([[0, 0.0, 0, 40, 40], [0, 5, 5, 60, 60], [0, 8, 8, 9, 9]])
        case.arguments.pop("batch_index", None)
        rois = change(rois, choice)
        return rois, ("rois", "batch_index")

    return make


def put(*numbers):
    """Put one of these numbers somewhere among the coordinates."""

    def change(rois, choice):
        rois[choice.randrange(len(rois)), choice.randrange(1, 5)] = choice.choice(numbers)
        return rois

    return change


def turn(rois, choice):
    """Turn a window inside out."""
    row, column = choice.randrange(len(rois)), choice.randrange(1, 3)
    rois[row, column] = rois[row, column + 2] + choice.choice((1, 0.5, 1e300))
    return rois


def misplace(rois, choice):
    """Name a map that there is none of."""
    rois[choice.randrange(len(rois)), 0] = choice.choice((99, -1, 0.5, NAN, INF, 1e30, -1e300))
    return rois


WINDOWS = ("window", None, 3.0, {"a": 1}, OBJECT, b"", [1, 2], [[1, 2, 3]], [[1, 2, 3, 4], [1]], [None], ["a"])
ROIS = [
    *map(windows, [lambda rois, choice, value=value: value for value in WINDOWS]),
    *(
        windows(lambda rois, choice, shape=shape: np.zeros(shape))
        for shape in ((4,), (5,), (3, 3), (3, 6), (2, 2, 5), (1, 1, 1, 4))
    ),
    *map(windows, (put(NAN, INF, -INF), turn, misplace)),
    *(windows(lambda rois, choice, dtype=dtype: rois.astype(dtype)) for dtype in ("c8", "U8", "O", "M8[s]", "?")),
    windows(lambda rois, choice: rois[:, :3]),
    windows(lambda rois, choice: [rois[:, 1:]] * 99),
    windows(lambda rois, choice: np.array([[1 + 1j] * 5])),
]


def wrong_index(change):
    """A `batch_index` that does not fit."""

    def make(case, choice):
        case.arguments["rois"] = np.array([[0.0, 0, 40, 40], [5, 5, 60, 60]])
        return change, ("batch_index",)

    return make


BATCH_INDEX = [
    wrong_index(value)
    for value in (
        [0],
        [0, 0, 0],
        [[0], [0]],
        0,
        [0.5, 0.0],
        ["0", "0"],
        [None, 0],
        [0, 99],
        [-1, 0],
        [2**40, 0],
        [NAN, 0],
    )
] + [wrong_index(value) for value in ("00", OBJECT, np.zeros(2, "M8[s]"), np.array([2**64 - 1, 0], np.uint64), 1j)]
GEOMETRY = values("geometry", 0, -16, -0.0, NAN, INF, "16", None, (16, 0), True, OBJECT, b"16", 1j, np.zeros(3), [])
SAMPLING = values("sampling_ratio", -1, 1025, 2**70, 1.5, None, "2", True, OBJECT, NAN, (2,), np.zeros(2))
ALIGNED = values("aligned", None, 1, 0, "yes", OBJECT, NAN, np.zeros(2))


def wrong_rows(name, change):
    """Flat rows that were right and are changed."""

    def make(case, choice):
        dtype = case.flat_grad.dtype.newbyteorder("=") if name == "grad" else np.dtype(np.int32)
        return change(np.zeros(case.flat_grad.shape, dtype)), (name,)

    return make


def both_rows(name):
    """What is wrong of a gradient and of indices."""
    return [
        *values(name, "grad", 3.0, OBJECT, (), [], (None,), ("a", "b"), {1: 2}, [[1.0]]),
        *(wrong_rows(name, change) for change in (lambda g: g[None], lambda g: g[..., :-1], lambda g: g.astype("c16"))),
    ]


GRAD = [*both_rows("grad"), *values("grad", None), wrong_rows("grad", lambda g: g.astype(np.int32))]


def out_of_range(case, choice):
    """Indices that point outside the maps."""
    rows = np.zeros(case.flat_grad.shape, choice.choice((np.int32, np.int64)))
    if not rows.size:
        return rows[None], ("indices",)
    rows.flat[choice.randrange(rows.size)] = choice.choice((-2, 2**31 - 1, -(2**31), 10**6))
    return rows, ("indices",)


def of_means(case, choice):
    """Indices asked for of means."""
    case.arguments["mode"] = "avg"
    return True, ("return_indices",)


INDICES = [*both_rows("indices"), out_of_range]
WRONG = {
    "x": X,
    "levels": LEVELS,
    "mode": strings("mode"),
    "layout": strings("layout"),
    "bins": strings("bins"),
    "rounding": strings("rounding"),
    "workers": WORKER_VALUES,
    "out": OUT,
    "rois": ROIS,
    "batch_index": BATCH_INDEX,
    "geometry": GEOMETRY,
    "sampling_ratio": SAMPLING,
    "aligned": ALIGNED,
    "grad": GRAD,
    "indices": INDICES,
    "return_indices": [of_means],
}
