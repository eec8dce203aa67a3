"""Arrays of JAX: the same results as of NumPy arrays, also under jit, grad and vmap, on any number of cores."""

import functools
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from helpers import assert_equal, make, make_rois
from test_errors import raises

import sppfast

jax = pytest.importorskip("jax", reason="jax is not installed")
jnp = pytest.importorskip("jax.numpy", reason="jax is not installed")

from sppfast.dispatch import call_foreign  # noqa: E402 - only where JAX is there

LEVELS = (3, (2, 1))
INDEX = [0, 1, 1, 0, 1]
FORMS = [{}, {"flatten": False}, {"return_indices": True}, {"return_indices": True, "flatten": False}, {"mode": "avg"}]
compiled = pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])


@pytest.fixture
def array(rng):
    return make(rng, (2, 3, 9, 7), "float32", "spread")


@pytest.fixture
def windows(rng):
    return make_rois(rng, 5, (144, 112)).astype(np.float32)


def as_numpy(result):
    if isinstance(result, list | tuple):
        return type(result)(map(as_numpy, result))
    assert isinstance(result, jax.Array)
    return np.asarray(result)


# ---- forms


@compiled
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("options", FORMS, ids=str)
def test_forms(options, layout, transform, array, windows):
    options = {"layout": layout, **options}
    pool = transform(functools.partial(sppfast.pool, **options))
    assert_equal(as_numpy(pool(jnp.asarray(array))), sppfast.pool(array, **options))
    assert_equal(as_numpy(pool(jnp.asarray(array[0]))), sppfast.pool(array[0], **options))
    roi_pool = transform(lambda x, rois, index: sppfast.roi_pool(x, rois, batch_index=index, **options))
    got = roi_pool(jnp.asarray(array), jnp.asarray(windows), jnp.asarray(INDEX))
    assert_equal(as_numpy(got), sppfast.roi_pool(array, windows, batch_index=INDEX, **options))


@compiled
def test_maps_of_different_sizes(transform, rng, windows):
    arrays = [make(rng, shape) for shape in ((3, 9, 7), (3, 4, 12))]
    maps, groups = list(map(jnp.asarray, arrays)), [windows[:2], windows[2:]]
    assert_equal(as_numpy(transform(lambda maps: sppfast.pool(maps))(maps)), sppfast.pool(arrays))
    pool = transform(lambda maps, rois: sppfast.roi_pool(maps, rois))
    want = sppfast.roi_pool(arrays, groups)
    assert_equal(as_numpy(pool(maps, list(map(jnp.asarray, groups)))), want)
    assert_equal(as_numpy(transform(lambda maps: sppfast.roi_pool(maps, groups))(maps)), want)


@compiled
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int32", "uint8", "bool"])
def test_dtypes(dtype, transform, rng):
    array = make(rng, (2, 3, 9, 7), dtype)
    for mode in ("max", "avg"):
        want = sppfast.pool(array, mode=mode)
        if want.dtype == np.float64:  # which JAX has none of, unless told
            want = want.astype(np.float32)
        got = transform(functools.partial(sppfast.pool, mode=mode))(jnp.asarray(array))
        assert_equal(as_numpy(got), want)


@compiled
def test_empty(transform):
    assert transform(sppfast.pool)(jnp.zeros((0, 3, 9, 7))).shape == (0, 63)
    rois = jnp.zeros((0, 4))
    assert transform(lambda x: sppfast.roi_pool(x, rois))(jnp.zeros((3, 9, 7))).shape == (0, 150)


def test_nothing_is_copied():
    x, seen = jnp.zeros((1, 2, 3, 4)), []
    memory = np.zeros(64 + 16, np.float32)
    result = memory[-memory.ctypes.data % 64 // 4 :][:64]  # JAX takes what begins at 64 bytes

    def operator(x, levels, out):
        seen.append(x.ctypes.data)
        return result

    got = call_foreign(operator, x=x, levels=(1,), out=None)
    assert seen == [x.unsafe_buffer_pointer()]
    assert got.unsafe_buffer_pointer() == result.ctypes.data


# ---- transforms


def weighted(function):
    """A loss: the sum of a result, with different weights."""

    def loss(*arguments):
        result = function(*arguments)
        return (result * jnp.linspace(-1, 2, result.size).reshape(result.shape)).sum()

    return loss


@compiled
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("mode", ["max", "avg"])
@pytest.mark.parametrize("name", ["pool", "roi_pool", "roi_align"])
def test_grad(name, mode, layout, transform, array, windows):
    arguments = [array] if name == "pool" else [array, windows]
    options = {"mode": mode, "layout": layout} | ({} if name == "pool" else {"batch_index": INDEX})
    operator = functools.partial(getattr(sppfast, name), levels=LEVELS, **options)
    got = transform(jax.grad(weighted(operator)))(*map(jnp.asarray, arguments))
    result = operator(*arguments)
    weights = np.linspace(-1, 2, result.size, dtype=np.float32).reshape(result.shape)
    want = getattr(sppfast, f"{name}_backward")(weights, *arguments, levels=LEVELS, **options)
    assert got.dtype == array.dtype
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@compiled
def test_grad_of_maps_of_different_sizes(transform, array):
    maps = [jnp.asarray(array[0]), jnp.asarray(array[1, :, :4])]
    got = transform(jax.grad(lambda maps: sppfast.pool(maps, mode="avg").sum()))(maps)
    want = sppfast.pool_backward(np.ones((2, 63), np.float32), list(map(np.asarray, maps)), mode="avg")
    for one_got, one_want in zip(got, want, strict=True):
        np.testing.assert_allclose(one_got, one_want, rtol=1e-5)


@compiled
def test_levels_and_indices_in_a_loss(transform, array):
    def loss(x):
        (values, _), indices = sppfast.pool(x, LEVELS, flatten=False, return_indices=True)
        return (values**2).sum(), indices[0]

    gradient, indices = transform(jax.grad(loss, has_aux=True))(jnp.asarray(array))
    grad = np.concatenate([2 * sppfast.pool(array, 3), np.zeros((2, 6), np.float32)], axis=1)
    np.testing.assert_allclose(gradient, sppfast.pool_backward(grad, array, LEVELS), rtol=1e-5)
    np.testing.assert_array_equal(indices, sppfast.pool(array, LEVELS, flatten=False, return_indices=True)[1][0])


@compiled
def test_windows_have_no_gradient(transform, array, windows):
    rois = jnp.asarray(windows)
    got = transform(jax.grad(lambda rois: sppfast.roi_pool(jnp.asarray(array), rois, batch_index=INDEX).sum()))(rois)
    np.testing.assert_array_equal(got, np.zeros_like(windows))


@compiled
def test_vmap(transform, array, windows):
    x, both = jnp.asarray(array), jnp.stack([windows, windows + 5])
    want = sppfast.pool(array)
    np.testing.assert_array_equal(transform(jax.vmap(sppfast.pool))(x), want)
    scaled = jnp.stack([x, 2 * x, 3 * x], 1)
    np.testing.assert_array_equal(transform(jax.vmap(sppfast.pool, in_axes=1))(scaled)[1], sppfast.pool(2 * array))
    twice = transform(jax.vmap(jax.vmap(sppfast.pool), in_axes=1, out_axes=1))(scaled)
    np.testing.assert_array_equal(twice[:, 2], sppfast.pool(3 * array))
    for axes, maps in (((0, 0), x), ((None, 0), x[0])):
        got = transform(jax.vmap(sppfast.roi_pool, in_axes=axes))(maps, both)
        for i in range(2):
            item = array[i] if axes[0] == 0 else array[0]
            np.testing.assert_array_equal(got[i], sppfast.roi_pool(item, np.asarray(both[i])))


@compiled
@pytest.mark.parametrize("mode", ["max", "avg"])
def test_vmap_and_grad(mode, transform, array):
    x = jnp.asarray(array)
    loss = lambda x: (sppfast.pool(x, mode=mode) ** 2).sum()  # noqa: E731
    want = sppfast.pool_backward(2 * sppfast.pool(array, mode=mode), array, mode=mode)
    np.testing.assert_allclose(transform(jax.vmap(jax.grad(loss)))(x), want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(transform(jax.grad(lambda x: jax.vmap(loss)(x).sum()))(x), want, rtol=1e-5, atol=1e-6)


@compiled
def test_second_derivatives_are_refused(transform, array):
    x = jnp.asarray(array)
    loss = lambda x: (sppfast.pool(x) ** 2).sum()  # noqa: E731
    for second in (jax.hessian(loss), jax.grad(lambda x: jax.grad(loss)(x).sum())):
        with pytest.raises(NotImplementedError, match="gradients of gradients are not supported"):
            transform(second)(x)
    with pytest.raises(TypeError, match="forward-mode"):
        transform(lambda x: jax.jvp(loss, (x,), (x,)))(x)


@compiled
def test_backward_operators_on_arrays(transform, array):
    grad = np.ones((2, 33), np.float32)
    backward = transform(lambda grad, x: sppfast.pool_backward(grad, x, LEVELS))
    want = sppfast.pool_backward(grad, array, LEVELS)
    assert_equal(as_numpy(backward(jnp.asarray(grad), jnp.asarray(array))), want)


def test_loops_of_lax(array):
    def body(carry, x):
        return carry + sppfast.pool(x, 1), sppfast.pool(x)

    total, all_levels = jax.lax.scan(body, jnp.zeros(3), jnp.asarray(array))
    np.testing.assert_array_equal(all_levels, sppfast.pool(array))
    np.testing.assert_allclose(total, sppfast.pool(array, 1).sum(axis=0), rtol=1e-6)


CONCURRENT = """
import faulthandler, os, sys
faulthandler.dump_traceback_later(60, exit=True)
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:int(sys.argv[1])])
import jax, jax.numpy as jnp, sppfast
x = jnp.arange(8 * 3 * 300 * 300, dtype=jnp.float32).reshape(8, 3, 300, 300)
pool_all = jax.jit(lambda x: [jax.grad(lambda x: sppfast.pool(x * i, mode="avg").sum())(x) for i in range(1, 6)])
for k in range(4):
    gradients = pool_all(x + k)  # which is still being added: JAX runs what comes after it on its own threads
for i, gradient in enumerate(gradients, 1):
    assert abs(float(gradient.sum()) / (8 * 63 * i) - 1) < 1e-3
print("done")
"""


@pytest.mark.parametrize("cores", [1, 2])
def test_callbacks_do_not_wait_for_each_other(cores):
    """Large arrays and several operators at once, where JAX has few threads."""
    command = [sys.executable, "-c", textwrap.dedent(CONCURRENT), str(cores)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ)
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr


# ---- errors


def test_out(array):
    with raises(ValueError, "out", "cannot be written to"):
        sppfast.pool(jnp.asarray(array), out=jnp.zeros((2, 63)))


@compiled
def test_wrong_arguments(transform, array, windows):
    x = jnp.asarray(array)
    with raises(ValueError, "mode", "'median'"):
        transform(lambda x: sppfast.pool(x, mode="median"))(x)
    with raises(ValueError, "x", (9, 7)):
        transform(sppfast.pool)(x[0, 0])
    with raises(TypeError, "x", "complex64"):
        transform(sppfast.pool)(x.astype(complex))
    with raises(ValueError, "rois", (5, 3)):
        transform(lambda x, rois: sppfast.roi_pool(x, rois))(x, jnp.asarray(windows[:, 1:]))
    with raises(ValueError, "batch_index", "needed"):
        transform(lambda x, rois: sppfast.roi_pool(x, rois))(x, jnp.asarray(windows))
    with raises(TypeError, "x[1]", "Array", "ndarray"):
        transform(lambda x: sppfast.pool([x, array[1]]))(x[0])


def test_wrong_values_under_jit(array):
    """Only the callback sees them; its message is part of JAX's."""
    rois = jnp.asarray([[9.0, 0, 3, 5]])
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"ValueError: rois\[0\]: x1 = 3.0 is left of x0 = 9.0"):
        jax.jit(sppfast.roi_pool)(jnp.asarray(array[0]), rois).block_until_ready()
