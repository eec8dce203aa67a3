"""Multi-size training in JAX: one network, two image sizes in turn, tested at a third size that it never saw.

The same as ``multi_size_torch.py``; a whole step, the pyramid in it, is one function under ``jit`` and ``grad``.

    python docs/examples/multi_size_jax.py
"""

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import sppfast

TRAINED, UNSEEN = (16, 24), 20  # pixels
PYRAMID = sppfast.Pyramid((3, 2, 1))
BATCH, RATE, MOMENTUM = 64, 0.02, 0.9


def build(key):
    """Weights of two convolutions and a linear classifier."""
    shapes = (16, 1, 3, 3), (32, 16, 3, 3), (PYRAMID.output_length(32), 10)
    scales = (2 / 9) ** 0.5, (2 / 144) ** 0.5, (1 / shapes[2][0]) ** 0.5
    keys = jax.random.split(key, len(shapes))
    return [scale * jax.random.normal(k, shape) for k, shape, scale in zip(keys, shapes, scales, strict=True)]


def network(weights, images):
    """Scores of the ten digits."""
    first, second, linear = weights
    maps = jax.nn.relu(jax.lax.conv(images, first, (1, 1), "SAME"))
    maps = jax.nn.relu(jax.lax.conv(maps, second, (2, 2), "SAME"))
    return sppfast.pool(maps, PYRAMID.levels) @ linear


def loss(weights, images, digits):
    """Cross-entropy."""
    return -jax.nn.log_softmax(network(weights, images))[jnp.arange(len(digits)), digits].mean()


@jax.jit
def step(weights, speeds, images, digits):
    """Gradient descent with momentum."""
    gradients = jax.grad(loss)(weights, images, digits)
    speeds = [MOMENTUM * speed - RATE * gradient for speed, gradient in zip(speeds, gradients, strict=True)]
    return [weight + speed for weight, speed in zip(weights, speeds, strict=True)], speeds


def resize(images, size):
    """Bilinear."""
    return jax.image.resize(images, (*images.shape[:2], size, size), "bilinear")


def main(epochs=20):
    """Train, and return the accuracy on test images at each size."""
    data = load_digits()
    images = (data.images[:, None] / 16).astype(np.float32)
    train, test, train_digits, test_digits = train_test_split(images, data.target, random_state=0)
    weights = build(jax.random.key(0))
    speeds = [jnp.zeros_like(weight) for weight in weights]
    rng = np.random.default_rng(0)
    for epoch in range(epochs):
        images = resize(train, TRAINED[epoch % len(TRAINED)])
        for batch in rng.permutation(len(train))[: len(train) // BATCH * BATCH].reshape(-1, BATCH):
            weights, speeds = step(weights, speeds, images[batch], train_digits[batch])
    return {
        size: float((network(weights, resize(test, size)).argmax(1) == test_digits).mean())
        for size in (*TRAINED, UNSEEN)
    }


if __name__ == "__main__":
    for size, part in main().items():
        print(f"{size} x {size} pixels: {part:.1%} of the test digits", "" if size in TRAINED else "(size never seen)")
