"""Random calls of the public operators, right and wrong ones, each from a seed of its own."""

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from helpers import BINS, DTYPES, FLOATS, KINDS, LAYOUTS, MODES, ROUNDINGS, make, make_rois

import sppfast

from .memory import carve, place
from .wrong import WRONG

OPERATORS = {
    "pool": 8,
    "roi_pool": 8,
    "roi_align": 4,
    "pool_backward": 3,
    "roi_pool_backward": 3,
    "roi_align_backward": 2,
}
CHANNELS = (1, 2, 3, 5, 8, 16, 17, 33, 64, 70)
COUNTS = (1, 1, 1, 2, 2, 2, 3, 3, 4, 7)  # of bins along an axis
WORKERS = (None, None, 1, 2, 3, -1, 1000, np.int32(2))
FAR = (1e300, 1.7e308, 3e38, 2.0**31, 2.0**63, 1e18)
GEOMETRIES = (1, 16, 16.0, 0.5, np.float32(12), sppfast.ConvGeometry(16, 3.5), sppfast.ConvGeometry(12, -7))
STRANGE = (1e-300, 1e300, 5e-324, 1.7e308, sppfast.ConvGeometry(1, 1e308), sppfast.ConvGeometry(1e-30, -1e300))


@dataclass
class Case:
    """A call. Unless it is spoiled it is right, and the oracle knows the answer if it is `known`."""

    operator: str
    arguments: dict[str, Any] = field(default_factory=dict)
    rows: int = 0  # of the result of the operator, or of the one whose gradient this is
    known: bool = True
    spoiled: tuple[str, ...] = ()  # the error must begin with one of these names
    guards: list[Any] = field(default_factory=list)  # of `out`: buffers, and how an array lies in each
    flat_grad: Any = None

    def __repr__(self):
        return f"sppfast.{self.operator}({', '.join(f'{k}={v!r}' for k, v in self.arguments.items())})"

    @property
    def function(self):
        """The operator."""
        return getattr(sppfast, self.operator)

    @property
    def backward(self):
        return self.operator.endswith("backward")

    @property
    def ragged(self):
        return not isinstance(self.arguments["x"], np.ndarray)

    @property
    def maps(self):
        """The maps, in a list; a batch is one array."""
        return list(self.arguments["x"]) if self.ragged else [self.arguments["x"]]

    @property
    def read(self):
        """All arrays that the call only reads."""
        values = [value for name, value in self.arguments.items() if name != "out"]
        values += [item for value in values if isinstance(value, list | tuple) for item in value]
        return [value for value in values if isinstance(value, np.ndarray)]

    def result_shapes(self):
        """Shapes and dtypes of the flat results."""
        a, first = self.arguments, self.maps[0]
        dtype = first.dtype.newbyteorder("=")
        if self.backward:
            return [(array.shape, dtype) for array in self.maps]
        channels = first.shape[-3] if a["layout"] == "NCHW" else first.shape[-1]
        shape = (self.rows, channels * sppfast.Pyramid(a["levels"]).size)
        if self.operator == "pool" and not self.ragged and first.ndim == 3:
            shape = shape[1:]
        if dtype.kind in "biu" and (a["mode"] == "avg" or self.operator == "roi_align"):
            dtype = np.result_type(dtype, np.float32)
        return [(shape, dtype), (shape, np.dtype(np.int32))][: 1 + bool(a.get("return_indices"))]


def draw(seed, number):
    """Case `number` of a seed."""
    choice, rng = random.Random(f"{seed}:{number}"), np.random.default_rng([seed, number])
    case = Case(choice.choices(list(OPERATORS), OPERATORS.values())[0])
    add_maps(case, choice, rng)
    if case.operator.startswith("roi"):
        add_windows(case, choice, rng)
    else:
        case.arguments["bins"] = choice.choice(BINS)
    if case.backward:
        add_gradient(case, choice, rng)
    else:
        case.arguments["flatten"] = choice.random() < 0.7
        if case.arguments["mode"] == "max" and case.operator != "roi_align":
            case.arguments["return_indices"] = choice.random() < 0.5
    if choice.random() < 0.3:
        add_out(case, choice)
    if choice.random() < 0.25:
        spoil(case, choice)
    return case


def add_maps(case, choice, rng):
    """Draw maps, and the options that every operator has."""
    form = choice.choice(["array", "array", "array", list, tuple])
    layout, channels = choice.choice(LAYOUTS), choice.choice(CHANNELS)
    dtype = choice.choice(FLOATS if case.backward else DTYPES)
    kind = choice.choice(("ties", "spread") if case.operator.startswith("roi_align") else KINDS)
    batch = (choice.randint(0, 3),) * (form == "array" and choice.random() < 0.7)
    longest = choice.choice((4, 9, 20)) if channels < 20 else 6
    maps = []
    for _ in range(1 if form == "array" else choice.randint(1, 3)):
        size = choice.randint(1, longest), choice.randint(1, longest)
        shape = (*batch, channels, *size) if layout == "NCHW" else (*batch, *size, channels)
        maps.append(place(choice, make(rng, shape, dtype, kind)))
    levels = [choice.choice((n(choice), n(choice), (n(choice), n(choice)))) for _ in range(choice.choice((1, 1, 2, 3)))]
    case.arguments |= {
        "x": maps[0] if form == "array" else form(maps),
        "levels": choice.choice((tuple(levels), tuple(levels), levels, n(choice), np.array([2, 1]))),
        "mode": choice.choice(MODES),
        "layout": layout,
        "workers": choice.choice(WORKERS),
    }
    case.rows = len(maps) if form != "array" else batch[0] if batch else 1


def n(choice):
    """A number of bins along an axis."""
    return choice.choice(COUNTS)


def add_windows(case, choice, rng):
    """Draw windows in one of the three forms of `rois`, and how they are rounded or sampled."""
    maps = case.rows
    align = case.operator.startswith("roi_align")
    a = case.arguments
    rounding = choice.choice(ROUNDINGS)
    a |= (
        {"sampling_ratio": choice.choice((0, 1, 2, 2, 3)), "aligned": choice.random() < 0.5}
        if align
        else {"rounding": rounding}
    )
    cells = not align and rounding == "cells"
    if not cells:
        a["geometry"] = choice.choice(GEOMETRIES)
    height, width = (
        max(m.shape[axis] for m in case.maps) for axis in ((-2, -1) if a["layout"] == "NCHW" else (-3, -2))
    )
    stride = 1.0 if cells else getattr(a["geometry"], "stride", a["geometry"])
    count = choice.choice((0, 1, 1, 1, 2, 3)) if maps else 0
    dtype = choice.choice((np.float64, np.float64, np.float32, np.int64, np.int16, ">f8", np.float16))
    rois = make_rois(rng, count, (height * stride, width * stride), whole=cells or choice.random() < 0.3)
    rois = rois.astype(dtype)
    if choice.random() < 0.15:
        make_strange(case, choice, rois, cells)
    index = rng.integers(0, max(maps, 1), count)
    case.rows = count
    case.known = case.known and bool(maps or not align)
    form = choice.choice(("beside", "columns", "groups"))
    if form == "groups" and maps:
        groups = [rois[index == b] for b in range(maps)]
        a["rois"] = choice.choice((groups, tuple(groups), [group.tolist() for group in groups]))
    elif form == "columns":
        a["rois"] = place(choice, np.column_stack([index, rois]))
    else:
        a["rois"] = choice.choice((place(choice, rois), rois.tolist()))
        a["batch_index"] = choice.choice((index, index.tolist(), index.astype(np.uint8)))


def make_strange(case, choice, rois, cells):
    """Windows, or a geometry, at the ends of what numbers can be; for those that the oracle does not know, `known`."""
    if choice.random() < 0.2 and not cells:
        case.arguments["geometry"] = choice.choice(STRANGE)
        case.known = False
        return
    if rois.dtype.kind == "f" and rois.itemsize == 8:
        far = choice.choice(FAR)
        for roi in rois[: choice.randint(0, 2)]:
            roi[choice.randrange(2)] -= far
            roi[choice.randrange(2, 4)] += far
        case.known = not case.operator.startswith("roi_align")
    elif rois.dtype.kind == "i":
        rois[:1, :2], rois[:1, 2:] = np.iinfo(rois.dtype).min, np.iinfo(rois.dtype).max
        case.known = not case.operator.startswith("roi_align")


def add_gradient(case, choice, rng):
    """Draw a gradient of whole numbers, whose sums are exact, and sometimes indices, right or anywhere in the map."""
    a = case.arguments
    first = case.maps[0]
    channels = first.shape[-3] if a["layout"] == "NCHW" else first.shape[-1]
    pyramid = sppfast.Pyramid(a["levels"])
    shape = (case.rows, channels * pyramid.size)
    if case.operator == "pool_backward" and not case.ragged and first.ndim == 3:
        shape = shape[1:]
    grad = make(rng, shape, first.dtype.name, "ties")
    indices = None
    if case.operator != "roi_align_backward" and a["mode"] == "max" and choice.random() < 0.4:
        area = min(m.size // channels // (len(m) if m.ndim == 4 and len(m) else 1) for m in case.maps)
        indices = rng.integers(-1, area, shape).astype(choice.choice((np.int32, np.int32, np.int64)))
        case.arguments["indices"] = place(choice, indices)
    case.flat_grad = grad = place(choice, grad)
    a["grad"] = pyramid.split(np.array(grad), channels, a["layout"]) if choice.random() < 0.3 else grad


def add_out(case, choice):
    """Make a place for the result, with guards around it."""
    shapes = case.result_shapes()
    if not case.backward and len(shapes) == 2 and choice.random() < 0.3:
        del shapes[1:]
    case.guards = [carve(choice, shape, dtype) for shape, dtype in shapes]
    outs = [lay(buffer) for buffer, lay in case.guards]
    together = list if case.backward else tuple
    case.arguments["out"] = together(outs) if len(outs) > 1 or (case.backward and case.ragged) else outs[0]


def spoil(case, choice):
    """Make one argument wrong."""
    names = [name for name in case.arguments if name in WRONG] + ["out"]
    name = choice.choice(names)
    value, blamed = choice.choice(WRONG[name])(case, choice)
    case.arguments[name] = value
    case.spoiled = blamed
    case.guards = [] if name == "out" else case.guards
