"""What must be true of one call: the oracle's answer or an error that names the argument, and nothing else changed."""

import contextlib
import re

import numpy as np
import oracle
from helpers import FLOATS, TOLERANCE, as_plain, largest

import sppfast
from sppfast.cpu import ways

from .memory import guards_hold

# Of RoI align and of gradients, of the largest value: the rounding of the weights, of the sum, and of the result.
ALIGN = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2e-6, "float64": 1e-12}


def check(case, fence=contextlib.nullcontext):
    """Make the call, in a context. What is wrong with it, or None."""
    before = [array.copy() for array in case.read]
    try:
        with fence():
            got = case.function(**case.arguments)
    except (TypeError, ValueError) as error:
        blamed = re.match(r"\w*", str(error)).group()
        if blamed not in case.spoiled:
            return f"{type(error).__name__}: {error}; expected it to blame {case.spoiled or 'nothing'}"
    else:
        if case.spoiled:
            return f"no error, expected one that blames {case.spoiled}"
        wrong = compare(case, got)
        if wrong:
            return wrong
    if not all(guards_hold(*guard) for guard in case.guards):
        return "written outside of out"
    if not all(same_bytes(a, b) for a, b in zip(before, case.read, strict=True)):
        return "an argument was changed"
    return None


def same_bytes(a, b):
    """Whether two arrays are equal to the last bit."""
    return a.dtype == object or a.tobytes() == b.tobytes()


def compare(case, got):
    """What differs from the oracle's answer; from the same call in another form, where the oracle has none."""
    a = case.arguments
    if a.get("out") is not None:
        outs = a["out"] if isinstance(a["out"], tuple | list) else [a["out"]]
        results = flat(got)
        if not all(any(np.shares_memory(out, result) for result in results) for out in outs if out.size):
            return "the result is not in out"
    want = oracle_of(case) if case.known else again(case)
    scale = max(1.0, largest(case.maps)) if not case.backward else 1.0
    if len(flat(got)) != len(flat(want)) or type(got) is not type(want):
        return f"{type(got).__name__} of {len(flat(got))}, expected {type(want).__name__} of {len(flat(want))}"
    for one, other in zip(flat(got), flat(want), strict=True):
        wrong = difference(case, one, other, scale)
        if wrong:
            return wrong
    return None


def flat(value):
    """All arrays of a result, whatever its form."""
    return [value] if isinstance(value, np.ndarray) else [array for item in value for array in flat(item)]


def oracle_of(case):
    """The oracle's answer, to plain forms of the arguments."""
    a = {name: value for name, value in case.arguments.items() if name not in ("out", "workers")}
    a["x"] = native(a["x"])
    if "rois" in a:
        a["rois"] = plain_rois(a["rois"])
    if not isinstance(a.get("geometry", 1.0), sppfast.ConvGeometry):
        a |= {"geometry": float(a["geometry"])} if "geometry" in a else {}
    if case.backward:
        a["grad"] = case.flat_grad
    with np.errstate(all="ignore"):
        return getattr(oracle, case.operator)(**a)


def again(case):
    """The same call with plain arrays, by one thread."""
    arguments = {name: value for name, value in case.arguments.items() if name != "out"}
    # Maps too large for a tile that windows share are summed in an order that hangs on how they lie in memory.
    as_they_lie = case.operator == "roi_pool" and arguments["mode"] == "avg" and not ways.SHARED_BYTES
    x = arguments["x"] if as_they_lie else native(arguments["x"])
    return case.function(**arguments | {"x": x, "workers": 1})


def native(x):
    """Maps in the machine's byte order, side by side in memory."""
    if isinstance(x, np.ndarray):
        return np.array(x, x.dtype.newbyteorder("="), order="C")
    return type(x)(map(native, x))


def plain_rois(rois):
    """Windows as arrays, with room for arithmetic in Python's integers: what is further out is cut off all the same."""
    if isinstance(rois, list | tuple) and all(np.ndim(group) == 2 or np.shape(group) == (0,) for group in rois):
        return [plain_rois(np.reshape(group, (-1, 4))) for group in rois]
    rois = np.asarray(rois)
    return np.clip(rois, -1e200, 1e200) if rois.dtype.kind == "f" and rois.itemsize == 8 else rois


def difference(case, got, want, scale):
    """How one array differs from what it should be: to the last bit, or to the rounding of a sum."""
    if got.dtype != want.dtype or got.shape != want.shape:
        return f"{got.dtype} {got.shape}, expected {want.dtype} {want.shape}"
    relative, absolute = tolerances(case, want.dtype, scale)
    a, b = as_plain(got), as_plain(want)
    same = (a == b) | ((a != a) & (b != b))
    if relative:
        with np.errstate(invalid="ignore"):  # inf - inf
            same |= abs(a.astype(np.float64) - b) <= relative * abs(b) + absolute
    elif want.dtype.name in FLOATS and not case.backward:
        same &= (np.signbit(a) == np.signbit(b)) | (a != a)
    if same.all():
        return None
    place = tuple(map(int, np.argwhere(~same)[0]))
    return f"{a[place]!r} at {place}, expected {b[place]!r}; {np.count_nonzero(~same)} of {same.size} differ"


def tolerances(case, dtype, scale):
    """What may differ: relative, absolute; 0 where all bits are the same."""
    exact = case.arguments["mode"] == "max" and not case.operator.startswith("roi_align")
    if exact or not case.known or dtype.kind in "biu":
        return 0, 0
    if case.backward or case.operator == "roi_align":
        relative = ALIGN[dtype.name]
        return relative, relative * (30 if case.backward else 4 * scale)
    return TOLERANCE[dtype.name] or 0, 1e-13 * scale
