"""Tensors of torch: the same results as of NumPy arrays, gradients as torch's, and what torch transforms."""

import copy
import functools
import itertools
import pickle

import numpy as np
import pytest
from helpers import assert_equal, dtype_of, make, make_rois
from test_errors import raises

import sppfast

torch = pytest.importorskip("torch", reason="torch is not installed")

import sppfast.torch  # noqa: E402 - only where torch is there
from sppfast.dispatch import call_foreign  # noqa: E402

LEVELS = (3, (2, 1))
INDEX = [0, 1, 1, 0, 1]


@pytest.fixture
def x(rng):
    return torch.from_numpy(make(rng, (2, 3, 9, 7), "float64", "spread"))


@pytest.fixture
def rois(rng):
    return torch.from_numpy(make_rois(rng, 5, (144, 112)))


def as_numpy(result):
    if isinstance(result, list | tuple):
        return type(result)(map(as_numpy, result))
    assert isinstance(result, torch.Tensor)
    return result.detach().numpy()


def pool_by_torch(x, levels=LEVELS, mode="max"):
    pool = getattr(torch.nn.functional, f"adaptive_{mode}_pool2d")
    return torch.cat([pool(x, n).flatten(1) for n in levels], 1)


def gradient(function, x):
    """Of a sum with different weights."""
    x = x.detach().requires_grad_()
    result = function(x)
    weights = torch.linspace(-1, 2, result.numel(), dtype=result.dtype).reshape(result.shape)
    return torch.autograd.grad((result * weights).sum(), x)[0]


# ---- forms

FORMS = [{}, {"flatten": False}, {"return_indices": True}, {"return_indices": True, "flatten": False}, {"mode": "avg"}]
record = pytest.mark.parametrize("recorded", [False, True], ids=["plain", "recorded"])


@record
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("options", FORMS, ids=str)
def test_forms(options, layout, recorded, x, rois):
    x.requires_grad_(recorded)
    array = x.detach().numpy()
    options = {"layout": layout, **options}
    assert_equal(as_numpy(sppfast.pool(x, **options)), sppfast.pool(array, **options))
    assert_equal(as_numpy(sppfast.pool(x[0], 3, **options)), sppfast.pool(array[0], 3, **options))
    got = sppfast.roi_pool(x, rois, batch_index=torch.tensor(INDEX), **options)
    assert_equal(as_numpy(got), sppfast.roi_pool(array, rois.numpy(), batch_index=INDEX, **options))
    first = got[0] if isinstance(got, tuple) else got
    assert (first[0] if isinstance(first, tuple) else first).requires_grad == recorded


def test_levels_that_can_be_read_once(x):
    with raises(ValueError, "levels", "more than"):
        sppfast.pool(x, itertools.count(1))
    got = sppfast.pool(x, iter(LEVELS), flatten=False)
    assert_equal(as_numpy(got), sppfast.pool(x.numpy(), LEVELS, flatten=False))


@record
def test_maps_of_different_sizes(recorded, rng, rois):
    arrays = [make(rng, shape) for shape in ((3, 9, 7), (3, 4, 12))]
    maps = [torch.from_numpy(array).requires_grad_(recorded) for array in arrays]
    assert_equal(as_numpy(sppfast.pool(maps)), sppfast.pool(arrays))
    groups = [rois[:2], rois[2:]]
    assert_equal(as_numpy(sppfast.roi_pool(maps, groups)), sppfast.roi_pool(arrays, [g.numpy() for g in groups]))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "int32", "bool"])
@pytest.mark.parametrize("mode", ["max", "avg"])
def test_dtypes(mode, dtype, rng):
    array = make(rng, (2, 3, 9, 7), dtype)
    x = torch.from_numpy(array.view(np.int16)).view(torch.bfloat16) if dtype == "bfloat16" else torch.from_numpy(array)
    got, want = sppfast.pool(x, mode=mode), sppfast.pool(array, mode=mode)
    assert got.dtype == (getattr(torch, dtype) if want.dtype == dtype_of(dtype) else torch.from_numpy(want).dtype)
    np.testing.assert_array_equal(got.double().numpy(), want.astype(np.float64))


def test_memory_formats(x):
    want = sppfast.pool(x)
    strided = torch.zeros(2, 3, 18, 21, dtype=x.dtype)[:, :, ::2, ::3].copy_(x)
    negated = torch.complex(x, -x).conj().imag  # x, with the sign to be turned when it is read
    assert negated.is_neg()
    for same in (x.to(memory_format=torch.channels_last), strided, negated, x.expand(2, 3, 9, 7)):
        torch.testing.assert_close(sppfast.pool(same), want, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_is_copied(dtype):
    x, result, seen = torch.zeros(1, 2, 3, 4, dtype=dtype), np.zeros(3, dtype_of(str(dtype)[6:])), []

    def operator(x, levels, out):
        seen.append(x.ctypes.data)
        return result

    got = call_foreign(operator, x=x, levels=(1,), out=None)
    assert seen == [x.data_ptr()]
    assert got.data_ptr() == result.ctypes.data
    assert got.dtype == dtype


def test_out(x):
    want, want_indices = sppfast.pool(x, return_indices=True)
    values, indices = torch.empty_like(want), torch.empty_like(want_indices)
    version = values._version
    assert sppfast.pool(x, out=values) is values
    assert values._version > version  # autograd sees that it was written to
    got = sppfast.pool(x, return_indices=True, out=(values.zero_(), indices))
    assert got[0] is values and got[1] is indices
    assert torch.equal(values, want) and torch.equal(indices, want_indices)
    levels = sppfast.pool(x, flatten=False, out=values.zero_())
    assert levels[0].data_ptr() == values.data_ptr() and torch.equal(values, want)


def test_out_is_not_recorded(x):
    out = torch.empty(2, 63, dtype=x.dtype)
    x.requires_grad_()
    with raises(ValueError, "out", "requires grad", "torch.no_grad()"):
        sppfast.pool(x, out=out)
    with torch.no_grad():
        assert sppfast.pool(x, out=out) is out


# ---- gradients


@pytest.mark.parametrize("kind", ["ties", "spread"])
@pytest.mark.parametrize("mode", ["max", "avg"])
@pytest.mark.parametrize("shape", [(2, 5, 13, 13), (3, 16, 1, 1), (1, 17, 2, 5)], ids=str)
def test_gradient_of_pool_is_that_of_torch(shape, mode, kind, rng):
    x = torch.from_numpy(make(rng, shape, "float32", kind))
    got = gradient(lambda x: sppfast.pool(x, LEVELS, mode=mode), x)
    torch.testing.assert_close(got, gradient(lambda x: pool_by_torch(x, LEVELS, mode), x))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("mode", ["max", "avg"])
def test_gradcheck(mode, layout, x, rois):
    x = x[:, :, :5, :5].requires_grad_()
    options = {"mode": mode, "layout": layout}
    for bins in ("adaptive", "sliding", "caffe"):
        pool = functools.partial(sppfast.pool, levels=(2, 1), bins=bins, **options)
        assert torch.autograd.gradcheck(pool, x)
    maps = list(x)
    assert torch.autograd.gradcheck(lambda *maps: sppfast.pool(maps, 2, flatten=False, **options), maps)
    for rounding in ("sppnet", "fast_rcnn"):
        pool = functools.partial(sppfast.roi_pool, geometry=28, rounding=rounding, batch_index=INDEX, **options)
        assert torch.autograd.gradcheck(pool, (x, rois, (2, 1)))
    align = functools.partial(sppfast.roi_align, geometry=28, batch_index=INDEX, **options)
    assert torch.autograd.gradcheck(align, (x, rois, (2, 1)))


def test_some_maps_need_no_gradient(x):
    maps = [x[0].requires_grad_(), x[1, :, :4].detach()]
    sppfast.pool(maps).sum().backward()
    assert maps[0].grad is not None and maps[1].grad is None


def test_levels_and_indices_in_a_loss(x):
    x.requires_grad_()
    (values, _), indices = sppfast.pool(x, LEVELS, flatten=False, return_indices=True)
    assert not indices[0].requires_grad
    (got,) = torch.autograd.grad(values.square().sum(), x)
    (want,) = torch.autograd.grad(pool_by_torch(x, (3,)).square().sum(), x)
    torch.testing.assert_close(got, want)


def test_windows_have_no_gradient(x, rois):
    rois.requires_grad_()
    assert not sppfast.roi_pool(x, rois, batch_index=INDEX).requires_grad
    sppfast.roi_pool(x.requires_grad_(), rois, batch_index=INDEX).sum().backward()
    assert rois.grad is None and x.grad is not None


def test_changing_the_maps_before_the_gradient_is_an_error(x):
    x = x.requires_grad_() * 1
    loss = sppfast.pool(x).sum()
    x.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_double_backward_is_refused(x):
    x.requires_grad_()
    (first,) = torch.autograd.grad(sppfast.pool(x).square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="double backward"):
        first.sum().backward()


def test_backward_operators_on_tensors(x, rois):
    grad = torch.ones(2, 3 * 11, dtype=x.dtype)
    got = sppfast.pool_backward(grad, x, LEVELS)
    assert_equal(as_numpy(got), sppfast.pool_backward(grad.numpy(), x.numpy(), LEVELS))
    maps = [x[0], x[1, :, :4]]
    got = sppfast.pool_backward(grad, maps, LEVELS)
    assert_equal(as_numpy(got), sppfast.pool_backward(grad.numpy(), [m.numpy() for m in maps], LEVELS))
    grad = torch.ones(5, 3 * 4, dtype=x.dtype)
    got = sppfast.roi_pool_backward(grad, x, rois, 2, batch_index=INDEX, mode="avg")
    want = sppfast.roi_pool_backward(grad.numpy(), x.numpy(), rois.numpy(), 2, batch_index=INDEX, mode="avg")
    assert_equal(as_numpy(got), want)
    with pytest.raises(NotImplementedError, match="double backward"):
        sppfast.pool_backward(torch.ones(2, 33, dtype=x.dtype, requires_grad=True), x, LEVELS).sum().backward()


# ---- transforms


@pytest.mark.parametrize("mode", ["max", "avg"])
def test_vmap(mode, x):
    pool = functools.partial(sppfast.pool, mode=mode)
    assert torch.equal(torch.func.vmap(pool)(x), pool(x))
    assert torch.equal(torch.func.vmap(pool, in_dims=1, out_dims=1)(x[:, None].expand(2, 4, 3, 9, 7))[:, 2], pool(x))
    loss = lambda x: pool(x).square().sum()  # noqa: E731
    want = torch.func.grad(loss)(x)
    torch.testing.assert_close(gradient(lambda x: pool_by_torch(x, LEVELS, mode), x) * 0 + want, want)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(x), want)
    torch.testing.assert_close(torch.func.grad(lambda x: torch.func.vmap(loss)(x).sum())(x), want)


def test_vmap_over_windows(x, rois):
    both = torch.stack([rois, rois + 5])
    pool = functools.partial(sppfast.roi_pool, return_indices=True)
    values, indices = torch.func.vmap(pool, in_dims=(0, 0))(x, both)
    shared, _ = torch.func.vmap(pool, in_dims=(None, 0))(x[0], both)
    for i in range(2):
        want = pool(x[i], both[i])
        assert torch.equal(values[i], want[0]) and torch.equal(indices[i], want[1])
        assert torch.equal(shared[i], pool(x[0], both[i])[0])


def test_second_derivatives_by_functions_are_refused(x):
    loss = lambda x: sppfast.pool(x).square().sum()  # noqa: E731
    with pytest.raises(NotImplementedError, match="double backward"):
        torch.func.jacrev(torch.func.grad(loss))(x)
    with pytest.raises(NotImplementedError, match="forward mode"):
        torch.func.jacfwd(loss)(x)


def test_compile(x, rois):
    torch.compiler.reset()
    layer = sppfast.torch.SpatialPyramidPool(LEVELS)

    def model(x):
        windows = sppfast.roi_pool(x.relu(), rois, batch_index=INDEX).sin().sum()
        return layer(x * 2).cos() + windows

    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(x), model(x))
    torch.testing.assert_close(gradient(compiled, x), gradient(model, x))


def test_compile_breaks_the_graph_once(x):
    torch.compiler.reset()
    explained = torch._dynamo.explain(lambda x: sppfast.pool(x * 2).sin())(x)
    assert explained.graph_break_count == 1
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(sppfast.pool, backend="eager", fullgraph=True)(x)


# ---- modules

MODULES = [
    (
        sppfast.torch.SpatialPyramidPool(LEVELS, mode="avg", bins="caffe"),
        lambda x, rois: sppfast.pool(x, LEVELS, mode="avg", bins="caffe"),
        "SpatialPyramidPool(levels=((3, 3), (2, 1)), mode='avg', bins='caffe')",
    ),
    (
        sppfast.torch.RoIPyramidPool(LEVELS, geometry=8, rounding="fast_rcnn", mode="avg"),
        lambda x, rois: sppfast.roi_pool(x, rois, LEVELS, geometry=8, rounding="fast_rcnn", mode="avg"),
        "RoIPyramidPool(levels=((3, 3), (2, 1)), geometry=ConvGeometry(stride=8.0, offset=0.0, receptive_field=1.0, "
        "layers=()), rounding='fast_rcnn', mode='avg')",
    ),
    (
        sppfast.torch.RoIAlign(LEVELS, geometry=8, sampling_ratio=0, aligned=False, mode="max"),
        lambda x, rois: sppfast.roi_align(x, rois, LEVELS, geometry=8, sampling_ratio=0, aligned=False, mode="max"),
        "RoIAlign(levels=((3, 3), (2, 1)), geometry=ConvGeometry(stride=8.0, offset=0.0, receptive_field=1.0, "
        "layers=()), sampling_ratio=0, aligned=False, mode='max')",
    ),
]
modules = pytest.mark.parametrize("module, function, shown", MODULES, ids=[type(case[0]).__name__ for case in MODULES])


@modules
def test_modules(module, function, shown, x, rois):
    rois = torch.column_stack([torch.tensor(INDEX), rois])
    arguments = (x,) if isinstance(module, sppfast.torch.SpatialPyramidPool) else (x, rois)
    for same in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(same(*arguments), function(x, rois))
        assert repr(same) == shown
    assert not module.state_dict()


@modules
def test_modules_have_the_defaults_of_the_functions(module, function, shown, x, rois):
    kind = type(module)
    if kind is sppfast.torch.SpatialPyramidPool:
        assert torch.equal(kind()(x), sppfast.pool(x))
    else:
        operator = {"RoIPyramidPool": sppfast.roi_pool, "RoIAlign": sppfast.roi_align}[kind.__name__]
        want = operator(x, rois, batch_index=INDEX)
        assert torch.equal(kind()(x, rois, INDEX), want)
        assert torch.equal(kind()(x, [rois[[0, 3]], rois[[1, 2, 4]]]), want[[0, 3, 1, 2, 4]])


def test_wrong_options_of_modules():
    with raises(ValueError, "levels[0]", 0):
        sppfast.torch.SpatialPyramidPool(0)
    with raises(ValueError, "bins", "'round'"):
        sppfast.torch.SpatialPyramidPool(bins="round")
    for kind in (sppfast.torch.SpatialPyramidPool, sppfast.torch.RoIPyramidPool, sppfast.torch.RoIAlign):
        with raises(ValueError, "mode", "'median'"):
            kind(mode="median")
    with raises(ValueError, "geometry", -1):
        sppfast.torch.RoIPyramidPool(geometry=-1)
    with raises(ValueError, "rounding", "'nearest'"):
        sppfast.torch.RoIPyramidPool(rounding="nearest")


# ---- errors


def test_a_device_that_is_not_supported(x, rois):
    with raises(ValueError, "x", "meta", "cpu or cuda", "x.cpu()"):
        sppfast.pool(x.to("meta"))
    with raises(ValueError, "x[1]", "meta"):
        sppfast.pool([x[0], x[1].to("meta")])
    with raises(ValueError, "rois", "meta", "rois.cpu()"):
        sppfast.roi_pool(x, rois.to("meta"))


def test_tensors_that_are_no_arrays(x):
    with raises(TypeError, "x", "Sparse"):
        sppfast.pool(x.to_sparse())
    with raises(TypeError, "x", "complex128"):
        sppfast.pool(torch.complex(x, x))
    with raises(TypeError, "x", "Float8"):
        sppfast.pool(x.to(torch.float8_e4m3fn))


def test_mixed_arguments(x):
    with raises(TypeError, "x[1]", "Tensor", "ndarray"):
        sppfast.pool([x[0], x[1].numpy()])
    with raises(TypeError, "x[1]", "numpy array", "Tensor"):
        sppfast.pool([x[0].numpy(), x[1]])
    with raises(TypeError, "out", "Tensor"):
        sppfast.pool(x.numpy(), out=torch.empty(2, 63, dtype=x.dtype))
