"""Multi-size training: one network, two image sizes in turn, tested at a third size that it never saw.

The layers are torch's, the pyramid is sppfast's: its output has one length whatever the size of the image, so the same
weights serve all sizes. As in section 2.3 of the paper (arXiv 1406.4729), each epoch is of one size, the next of the
other. The images are scikit-learn's handwritten digits.

    python docs/examples/multi_size_torch.py
"""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.nn import Conv2d, Linear, ReLU, Sequential
from torch.nn.functional import cross_entropy, interpolate

from sppfast.torch import SpatialPyramidPool

TRAINED, UNSEEN = (16, 24), 20  # pixels
BATCH = 64


def build():
    """Two convolutions, the pyramid, and a linear classifier."""
    pyramid = SpatialPyramidPool(levels=(3, 2, 1))
    convolutions = [Conv2d(1, 16, 3, padding=1), ReLU(), Conv2d(16, 32, 3, stride=2, padding=1), ReLU()]
    return Sequential(*convolutions, pyramid, Linear(pyramid.pyramid.output_length(32), 10))


def train_epoch(network, optimizer, images, digits):
    """One pass over the images in random order."""
    for batch in torch.randperm(len(images)).split(BATCH):
        optimizer.zero_grad()
        cross_entropy(network(images[batch]), digits[batch]).backward()
        optimizer.step()


@torch.no_grad()
def accuracy(network, images, digits):
    """Part of the images whose digit is found."""
    return (network(images).argmax(1) == digits).double().mean().item()


def main(epochs=20):
    """Train, and return the accuracy on test images at each size."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # for images this small, more threads would rather wait for each other
    data = load_digits()
    images = torch.tensor(data.images[:, None] / 16, dtype=torch.float32)
    train, test, train_digits, test_digits = train_test_split(images, torch.tensor(data.target), random_state=0)
    network = build()
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for epoch in range(epochs):
        size = TRAINED[epoch % len(TRAINED)]
        train_epoch(network, optimizer, interpolate(train, (size, size), mode="bilinear"), train_digits)
    return {
        size: accuracy(network, interpolate(test, (size, size), mode="bilinear"), test_digits)
        for size in (*TRAINED, UNSEEN)
    }


if __name__ == "__main__":
    for size, part in main().items():
        print(f"{size} x {size} pixels: {part:.1%} of the test digits", "" if size in TRAINED else "(size never seen)")
