"""What the tests of the SPP-net system share: a backbone that is quick, and images of coloured shapes."""

import numpy as np

from sppfast import ConvGeometry


class Blocks:
    """Means over 4 x 4 pixels: each colour, and its complement. Counts its calls and keeps what it saw."""

    geometry = ConvGeometry.from_layers([(4, 4, 0)])

    def __init__(self):
        self.sizes = []

    def __call__(self, image):
        self.sizes.append(image.shape[:2])
        height, width = (side // 4 for side in image.shape[:2])
        blocks = image[: 4 * height, : 4 * width].reshape(height, 4, width, 4, 3)
        means = blocks.mean(axis=(1, 3), dtype=np.float32).transpose(2, 0, 1) / 255
        return np.concatenate([means, 1 - means])


def sliding_windows(image):
    """Candidate windows everywhere, of three sizes."""
    height, width = image.shape[:2]
    return [
        (x, y, x + side, y + side)
        for side in (16, 24, 32)
        for y in range(0, height - side + 1, 4)
        for x in range(0, width - side + 1, 4)
    ]


COLOURS = {"green": (20, 200, 30), "red": (220, 30, 20)}


def shapes(rng, count):
    """Dark noise with one to three red or green squares: images, boxes, labels."""
    images, boxes, labels = [], [], []
    for _ in range(count):
        image = rng.integers(0, 60, (48, 72, 3), dtype=np.uint8)
        places = rng.permutation(3)[: rng.integers(1, 4)]
        names = rng.choice(list(COLOURS), len(places))
        truth = []
        for place, name in zip(places, names, strict=True):
            side = rng.choice([16, 20])
            x, y = 24 * place + rng.integers(0, 4), rng.integers(0, 48 - side)
            image[y : y + side, x : x + side] = COLOURS[name]
            truth.append([x, y, x + side, y + side])
        images.append(image)
        boxes.append(truth)
        labels.append(names)
    return images, boxes, labels
