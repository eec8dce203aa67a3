"""The demo: photographs of any size become vectors of one length, and a picture shows how."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

import sppfast

from .extras import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats: TypeAlias = NDArray[np.float32]

NEEDS = ("cv2", "matplotlib", "onnx", "onnxruntime", "skimage", "sklearn", "tqdm")
LEVELS = (6, 3, 2, 1)
WINDOWS = 300
WAVELENGTHS = (4.0, 8.0, 16.0, 32.0)  # of the filters, in pixels
ORIENTATIONS = 8
HORIZONTAL_EDGES = WAVELENGTHS.index(16.0) * ORIENTATIONS + ORIENTATIONS // 2  # the channel that is drawn
# One cell averages the filters over 8 x 8 pixels. What the filters themselves see around is left out here, so
# that the cells tile the image.
GEOMETRY = sppfast.ConvGeometry.from_layers([(8, 8, 0)])


def run(folder: Path) -> None:
    """Pool photographs, print a table, draw the bins over one of them; then learn to find digits on photographs.

    Parameters
    ----------
    folder : Path
        Where the pictures ``bins.png`` and ``detection.png`` go; made if missing.

    Raises
    ------
    ImportError
        If a package of the extra ``demo`` is not installed.
    """
    require("the demo", "demo", *NEEDS)
    photographs = load_photographs()
    print("computing feature maps ...", flush=True)
    maps = {name: feature_map(photograph) for name, photograph in photographs.items()}

    print("compiling kernels (once; they are kept on disk) ...", flush=True)
    start = time.perf_counter()
    vectors = sppfast.pool(list(maps.values()), LEVELS)
    sppfast.roi_pool(next(iter(maps.values())), [[0, 0, 63, 63]], LEVELS, geometry=GEOMETRY)
    print(f"  {time.perf_counter() - start:.1f} s\n")

    print_table(photographs, maps)
    sizes = len({photograph.shape for photograph in photographs.values()})
    print(f"\n{len(maps)} photographs of {sizes} sizes -> one array {vectors.shape} of {vectors.dtype}")

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "bins.png"
    draw(photographs["china"], maps["china"], path)
    print(f"the bins over a photograph: {path}")

    from .sppnet import demo as detection

    detection.run(folder)


def load_photographs() -> dict[str, NDArray[np.uint8]]:
    """Colour photographs that come with scikit-learn and scikit-image, ``(H, W, 3)``."""
    from skimage import data
    from sklearn.datasets import load_sample_image

    photographs = {name: getattr(data, name)() for name in ("chelsea", "astronaut", "coffee", "rocket")}
    photographs["motorcycle"] = data.stereo_motorcycle()[0]
    photographs["hubble"] = data.hubble_deep_field()
    photographs["retina"] = data.retina()
    photographs["china"] = load_sample_image("china.jpg")
    photographs["flower"] = load_sample_image("flower.jpg")
    return photographs


def feature_map(photograph: NDArray[np.uint8]) -> Floats:
    """Features of a photograph at its own size: 32 oriented edge energies and 16 colour contrasts.

    The edge energies are the moduli of log-Gabor filters of the brightness, all orientations of the smallest
    scale first. The colour contrasts are centre minus surround of red-green and of blue-yellow, positive and
    negative parts apart.

    Parameters
    ----------
    photograph : ndarray of uint8, shape (H, W, 3)

    Returns
    -------
    ndarray of float32, shape (48, H // 8, W // 8)
    """
    margin = 32  # mirrored around the image: the Fourier transform takes it as periodic
    padded = np.pad(photograph, ((margin, margin), (margin, margin), (0, 0)), mode="reflect")
    red, green, blue = np.moveaxis(padded, -1, 0).astype(np.float32) / 255
    rings, sectors, contrasts = _filters(red.shape)

    def filtered(spectrum: NDArray[Any], transfer: Floats) -> NDArray[Any]:
        return np.fft.ifft2(spectrum * transfer)[margin:-margin, margin:-margin]

    spectrum = np.fft.fft2((red + green + blue) / 3)
    features = [_average(np.abs(filtered(spectrum, ring * sector))) for ring in rings for sector in sectors]
    for opponent in (red - green, blue - (red + green) / 2):
        spectrum = np.fft.fft2(opponent)
        for contrast in contrasts:
            response = filtered(spectrum, contrast).real
            features += [_average(np.maximum(response, 0)), _average(np.maximum(-response, 0))]
    return np.stack(features)


def _filters(shape: tuple[int, ...]) -> tuple[list[Floats], list[Floats], list[Floats]]:
    """Transfer functions: log-Gabor rings and half-plane sectors, and differences of Gaussians."""
    y, x = np.meshgrid(*(np.fft.fftfreq(n).astype(np.float32) for n in shape), indexing="ij")
    radius = np.maximum(np.hypot(y, x), 1e-6)  # cycles per pixel
    angle = np.arctan2(y, x)
    apart = np.pi / ORIENTATIONS
    turns = [np.remainder(angle - i * apart + np.pi, 2 * np.pi) - np.pi for i in range(ORIENTATIONS)]
    rings = [np.exp(-(np.log2(radius * wavelength) ** 2) / (2 * 0.6**2)) for wavelength in WAVELENGTHS]
    sectors = [np.exp(-(turn**2) / (2 * (0.6 * apart) ** 2)) for turn in turns]
    contrasts = [_blur(radius, wavelength / 4) - _blur(radius, wavelength) for wavelength in WAVELENGTHS]
    return rings, sectors, contrasts


def _blur(radius: Floats, sigma: float) -> Floats:
    return np.asarray(np.exp(-2 * (np.pi * sigma * radius) ** 2))


def _average(response: NDArray[Any]) -> Floats:
    """Mean over the pixels of each cell."""
    height, width = GEOMETRY.map_size(response.shape)
    step = round(GEOMETRY.stride)
    blocks = response[: height * step, : width * step].reshape(height, step, width, step)
    means: Floats = np.mean(blocks, axis=(1, 3), dtype=np.float32)
    return means


def random_windows(rng: np.random.Generator, count: int, height: int, width: int) -> Floats:
    """Draw windows inside an image, their sides from 32 pixels to the image's, evenly in the logarithm."""
    sides = np.exp(rng.uniform(np.log(32), np.log([width, height]), (count, 2)))
    corners = rng.uniform(size=(count, 2)) * (np.array([width, height]) - sides)
    return np.concatenate([corners, corners + sides - 1], axis=1).astype(np.float32)


def print_table(photographs: dict[str, NDArray[np.uint8]], maps: dict[str, Floats]) -> None:
    """Print what each photograph is pooled into, and how long it takes."""
    rng = np.random.default_rng(0)
    print(f"levels {', '.join(f'{n}x{n}' for n in LEVELS)}; median times with all cores")
    print(
        f"{'photograph':<12}{'height x width':>16}{'map':>14}{'vector':>8}"
        f"{'pool':>11}{'Mpixel/s':>10}{f'{WINDOWS} windows':>15}{'windows/s':>11}"
    )
    for name, photograph in photographs.items():
        x, (height, width) = maps[name], photograph.shape[:2]
        rois = random_windows(rng, WINDOWS, height, width)
        vector = sppfast.pool(x, LEVELS)
        pool = _seconds(sppfast.pool, x, LEVELS)
        roi_pool = _seconds(sppfast.roi_pool, x, rois, LEVELS, geometry=GEOMETRY)
        print(
            f"{name:<12}{f'{height}x{width}':>16}{'x'.join(map(str, x.shape)):>14}{vector.size:>8}"
            f"{pool * 1e3:>8.3f} ms{height * width / pool / 1e6:>10,.0f}"
            f"{roi_pool * 1e3:>12.2f} ms{WINDOWS / roi_pool:>11,.0f}"
        )


def _seconds(call: Callable[..., object], *args: Any, **options: Any) -> float:
    """Median time of 21 calls, after one that does not count."""
    times = []
    for _ in range(22):
        start = time.perf_counter()
        call(*args, **options)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def draw(photograph: NDArray[np.uint8], x: Floats, path: Path) -> None:
    """Draw the bins of each level over a photograph, each tinted by its pooled strength.

    Parameters
    ----------
    photograph : ndarray of uint8, shape (H, W, 3)
    x : ndarray of float32, shape (48, H // 8, W // 8)
        Its features; one of the channels is shown.
    path : Path
        The picture, a PNG. Under the levels it shows the same numbers in the order of `sppfast.pool`.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    levels = [level[HORIZONTAL_EDGES] for level in sppfast.pool(x, LEVELS, flatten=False)]
    low, high = levels[0].min(), levels[0].max()
    tints = [colormaps["inferno"](0.15 + 0.85 * (level - low) / (high - low))[..., :3] for level in levels]
    windows = sppfast.Pyramid(LEVELS).windows(*x.shape[1:])
    sizes = [level.size for level in levels]
    height, width = photograph.shape[:2]

    figure = Figure(figsize=(11, 11 / (1 + len(levels)) * height / width + 0.95), dpi=130)
    place = {"left": 0.004, "right": 0.996, "wspace": 0.03}
    above = figure.add_gridspec(1, 1 + len(levels), top=0.9, bottom=0.3, **place)
    below = figure.add_gridspec(1, len(levels), top=0.25, bottom=0.17, width_ratios=sizes, **place)
    first, *panels = above.subplots(squeeze=False)[0]
    strips = below.subplots(squeeze=False)[0]

    first.imshow(photograph)
    first.set_title(f"photograph, {width} \N{MULTIPLICATION SIGN} {height}", fontsize=9)
    for panel, strip, tint, cells in zip(panels, strips, tints, windows, strict=True):
        draw_bins(panel, photograph, tint, GEOMETRY.boxes(cells).astype(int))
        draw_strip(strip, tint)
    for axes in figure.axes:
        axes.axis("off")
    count = f"{' + '.join(map(str, sizes))} = {sum(sizes)}"
    caption = f"{count} numbers from each channel, whatever the size of the photograph"
    channel = f"(here: horizontal edges, one of {len(x)} channels)"
    figure.text(0.5, 0.05, f"{caption} {channel}", ha="center", fontsize=9)
    figure.savefig(path)


def draw_bins(panel: Axes, photograph: NDArray[np.uint8], tint: NDArray[Any], boxes: NDArray[Any]) -> None:
    """Draw the photograph in grey, times the colour of each bin (where bins overlap, the mean of theirs)."""
    right, bottom = boxes[-1, -1, 2:] + 1  # what lies beyond is too little for a cell
    grey = photograph[:bottom, :right].mean(axis=2, keepdims=True) / 255
    colour, layers = np.zeros((*grey.shape[:2], 3)), np.zeros(grey.shape)
    for rgb, (x0, y0, x1, y1) in zip(tint.reshape(-1, 3), boxes.reshape(-1, 4), strict=True):
        inside = (slice(y0, y1 + 1), slice(x0, x1 + 1))
        colour[inside] += rgb
        layers[inside] += 1
        panel.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color="white", linewidth=0.5)
    panel.imshow(np.clip(colour / layers * (0.35 + 0.9 * grey), 0, 1))
    rows, columns = tint.shape[:2]
    panel.set_title(f"{rows} \N{MULTIPLICATION SIGN} {columns} bins", fontsize=9)


def draw_strip(axes: Axes, tint: NDArray[Any]) -> None:
    """Draw the colours of a level in the order of its values in the vector."""
    row = tint.reshape(1, -1, 3)
    axes.imshow(row, aspect="auto")
    axes.vlines(np.arange(1, row.shape[1]) - 0.5, -0.5, 0.5, color="white", linewidth=0.5)
