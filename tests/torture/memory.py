"""Arrays anywhere in memory: misaligned, strided, reversed, repeated, read-only, with guards around them."""

import math

import numpy as np

CANARY = 0xA5


def carve(choice, shape, dtype):
    """A buffer full of canaries, and a function that finds an array in it: plain, or with strides of any kind."""
    plain = choice.random() < 0.5
    order = range(len(shape)) if plain else choice.sample(range(len(shape)), len(shape))
    steps = [1 if plain else choice.choice((1, 1, 1, 2, -1, -2)) for _ in shape]
    begin, end = (0, 0) if plain else (choice.choice((0, 1, 3, 8, 64)), choice.choice((0, 0, 1, 16)))
    memory = [shape[i] * abs(steps[i]) for i in order]
    size = math.prod(memory) * dtype.itemsize

    def lay(buffer):
        array = buffer[begin : begin + size].view(dtype).reshape(memory).transpose(np.argsort(order))
        return array[tuple(slice(None, None, step) for step in steps)]

    return np.full(begin + size + end, CANARY, np.uint8), lay


def guards_hold(buffer, lay):
    """Whether all bytes around an array are as they were."""
    copy = buffer.copy()
    array = lay(copy)
    array.view(f"V{array.itemsize}")[...] = np.void(bytes([CANARY] * array.itemsize))
    return bool((copy == CANARY).all())


def place(choice, values):
    """The same values elsewhere in memory; along an axis sometimes only the first of them, many times over."""
    buffer, lay = carve(choice, values.shape, values.dtype)
    array = lay(buffer)
    array[...] = values
    if choice.random() < 0.08:
        axis = choice.randrange(array.ndim)
        array = np.broadcast_to(array[(slice(None),) * axis + (slice(0, 1),)], array.shape)
    if choice.random() < 0.1 and values.dtype.isbuiltin == 1:
        array = array.astype(array.dtype.newbyteorder())
    if choice.random() < 0.1:
        array.flags.writeable = False
    return array
