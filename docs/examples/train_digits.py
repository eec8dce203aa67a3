"""Train the small convolutional body that finds digits, and write it as an ONNX model.

    python docs/examples/train_digits.py --out sppfast/sppnet/models/digits.onnx

Four convolutions of stride 4 in all, under a pyramid of 4 x 4, 2 x 2 and 1 x 1 bins and one linear layer, learn to tell
digits and pieces of photographs apart. As in section 2.3 of the paper, two input sizes take turns and share the
weights. Only the body is kept. Needs torch (pip install "sppfast[peers,demo]").
"""

import argparse
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from sppfast.sppnet import digits
from sppfast.sppnet.bodies import body_model

RECIPE = "conv16 pool conv32 pool conv64 conv64"
LAYERS = [(3, 1, 1), (2, 2, 0), (3, 1, 1), (2, 2, 0), (3, 1, 1), (3, 1, 1)]
LEVELS = (4, 2, 1)
SIDES = (40, 60)  # of the squares that the network is trained on, in turn
TESTS = 1000  # squares to test on
BACKGROUND = 10  # the class of what is no digit


class Network(nn.Module):
    """The body, the pyramid, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        layers, inputs = [], 3
        for word, (kernel, stride, padding) in zip(RECIPE.split(), LAYERS, strict=True):
            if word == "pool":
                layers.append(nn.MaxPool2d(kernel, stride, padding))
                continue
            outputs = int(word.removeprefix("conv"))
            layers += [nn.Conv2d(inputs, outputs, kernel, stride, padding), nn.ReLU()]
            inputs = outputs
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(inputs * sum(n * n for n in LEVELS), BACKGROUND + 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Score the classes."""
        maps = self.body(images)
        pooled = [functional.adaptive_max_pool2d(maps, n).flatten(1) for n in LEVELS]
        return self.head(functional.dropout(torch.cat(pooled, 1), 0.5, self.training))


def make_batch(rng: np.random.Generator, split: str, count: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Squares of a photograph, most with a digit that nearly fills them, some with none or with part of one."""
    images, targets = digits.load_digits(split)
    backgrounds = digits.load_backgrounds(split)
    squares, labels = [], []
    for _ in range(count):
        i = rng.integers(len(targets))
        background = backgrounds[rng.integers(len(backgrounds))]
        square = digits.crop(rng, background, 2 * side, 2 * side)
        height = side * rng.uniform(0.8, 1)
        width = height * digits.width_of(rng, images[i])
        box = np.rint([side - width / 2, side - height / 2, side + width / 2, side + height / 2])
        kind = rng.random()
        if kind < 0.85:
            digits.paint(rng, square, images[i], box, vary=split == "train")
        shift = np.rint(rng.uniform(-0.08, 0.08, 2) * side) if kind < 0.7 else random_shift(rng, side)
        y, x = (side // 2 + shift).astype(int)
        squares.append(square[y : y + side, x : x + side])
        labels.append(targets[i] if kind < 0.7 else BACKGROUND)
    batch = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).float() / 255
    return batch, torch.tensor(labels)


def random_shift(rng: np.random.Generator, side: int) -> np.ndarray:
    """Half a side away, in any direction: a digit there is cut, and no digit any more."""
    angle = rng.uniform(0, 2 * np.pi)
    return np.clip(np.rint(side * 0.62 * np.array([np.sin(angle), np.cos(angle)])), -side // 2, side // 2)


def accuracy(network: Network, rng: np.random.Generator, side: int) -> float:
    """Share of squares of the test split that are told apart."""
    network.eval()
    images, labels = make_batch(rng, "test", TESTS, side)
    with torch.inference_mode():
        right = float((network(images).argmax(1) == labels).float().mean())
    network.train()
    return right


def train(steps: int, batch: int, seed: int) -> Network:
    """Train the network, and say how well it does."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = Network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    for step in tqdm(range(steps), unit=" steps", disable=None):
        images, labels = make_batch(rng, "train", batch, SIDES[step % len(SIDES)])
        loss = functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 200 == 199:
            tqdm.write(f"step {step + 1}: loss {loss.item():.3f}")
    for side in SIDES:
        print(
            f"test squares of {side} x {side} pixels: {accuracy(network, np.random.default_rng(seed), side):.3f} right"
        )
    return network


def body_of(network: Network) -> onnx.ModelProto:
    """The body alone, with 0 to 255 as its input."""
    convolutions = [layer for layer in network.body if isinstance(layer, nn.Conv2d)]
    weights = [(layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in convolutions]
    weights[0] = (weights[0][0] / 255, weights[0][1])
    return body_model(RECIPE, LAYERS, weights)


def main() -> None:
    """Read the command line, train, write the model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=digits.BODY, metavar="FILE.onnx", help="[in the package]")
    parser.add_argument("--steps", type=int, default=3000, help="[3000]")
    parser.add_argument("--batch", type=int, default=64, help="squares of a step [64]")
    parser.add_argument("--seed", type=int, default=0, help="[0]")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the same sums, and so the same model, on every number of cores
    onnx.save(body_of(train(arguments.steps, arguments.batch, arguments.seed)), arguments.out)


if __name__ == "__main__":
    main()
