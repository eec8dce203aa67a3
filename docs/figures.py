"""Draw the pictures of the documentation, into ``docs/images``.

    python docs/figures.py

``bins.png`` and ``detection.png`` come from ``make demo``.
"""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import sppfast
from sppfast import demo

IMAGES = Path(__file__).parent / "images"
WIDTH = 5  # inches: read on a telephone too
COLOURS = ["#4477aa", "#66ccee", "#228833", "#ccbb44", "#ee6677", "#aa3377"]
GREY = "#888888"
CHANNELS, BINS = 4, 4


def save(figure, path):
    """Save a figure; the same bytes each time."""
    with matplotlib.rc_context({"svg.hashsalt": path.name}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    print(path)


def canvas(height, rows, *, top=0.94, hspace=0.5):
    """Make a figure of `rows` panels without axes, one above the other."""
    figure = Figure(figsize=(WIDTH, height), dpi=160)
    panels = figure.subplots(rows, 1, squeeze=False, gridspec_kw={"hspace": hspace})[:, 0]
    figure.subplots_adjust(left=0.02, right=0.98, top=top, bottom=0.02)
    for panel in panels:
        panel.axis("off")
    return figure, panels


def box(axes, x, y, width=1.0, height=1.0, colour="white", text="", edge="white"):
    """Draw a rectangle with a text in it."""
    axes.add_patch(Rectangle((x, y), width, height, facecolor=colour, edgecolor=edge, linewidth=0.8))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=7)


def arrow(axes, start, stop):
    """Draw an arrow."""
    axes.annotate("", stop, start, arrowprops={"arrowstyle": "-|>", "color": GREY, "shrinkA": 0, "shrinkB": 0})


# ---- the bins over a photograph


def draw_levels(path):
    """Draw four levels of bins over a photograph, each tinted by its pooled strength, and the vector of them all."""
    photograph = demo.load_photographs()["china"]
    x = demo.feature_map(photograph)
    levels = [level[demo.HORIZONTAL_EDGES] for level in sppfast.pool(x, demo.LEVELS, flatten=False)]
    low, high = levels[0].min(), levels[0].max()
    tints = [matplotlib.colormaps["inferno"](0.15 + 0.85 * (level - low) / (high - low))[..., :3] for level in levels]
    figure = Figure(figsize=(WIDTH, 4.1), dpi=160)
    place = {"left": 0.01, "right": 0.99, "wspace": 0.03}
    above = figure.add_gridspec(2, 2, top=0.94, bottom=0.12, hspace=0.12, **place)
    below = figure.add_gridspec(1, 4, top=0.09, bottom=0.01, width_ratios=[level.size for level in levels], **place)
    windows = sppfast.Pyramid(demo.LEVELS).windows(*x.shape[1:])
    for panel, strip, tint, cells in zip(above.subplots().flat, below.subplots().flat, tints, windows, strict=True):
        demo.draw_bins(panel, photograph, tint, demo.GEOMETRY.boxes(cells).astype(int))
        demo.draw_strip(strip, tint)
    for axes in figure.axes:
        axes.axis("off")
    save(figure, path)


def draw_window(path):
    """Draw a window over a photograph, the cells it becomes, and their bins."""
    photograph = demo.load_photographs()["china"]
    geometry = sppfast.ConvGeometry(16, 7.5)
    height, width = (side // 16 for side in photograph.shape[:2])
    roi = np.array([[62.0, 38.0, 318.0, 390.0]])
    ((x0, y0, x1, y1),) = geometry.cells(roi, height, width)
    figure = Figure(figsize=(WIDTH, 3.5), dpi=160)
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    axes.axis("off")
    axes.imshow(photograph)
    rows, columns = np.mgrid[:height, :width]
    axes.plot(*(16 * side.ravel() + 7.5 for side in (columns, rows)), ".", color="white", markersize=2.5)
    left, top, right, bottom = roi[0]
    axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor="#ee6677", linewidth=2))
    for bx0, by0, bx1, by1 in sppfast.Pyramid(3).windows(y1 - y0, x1 - x0)[0].reshape(-1, 4):
        corner = (16 * (x0 + bx0), 16 * (y0 + by0))
        sides = (16 * (bx1 - bx0), 16 * (by1 - by0))
        axes.add_patch(Rectangle(corner, *sides, facecolor="#66ccee33", edgecolor="#66ccee", linewidth=1.2))
    save(figure, path)


# ---- the rules


def draw_rules(path):
    """Draw which of 11 cells four bins have, by each rule."""
    length, n = 11, 4
    figure, panels = canvas(3.6, 3, top=0.92)
    for panel, rule in zip(panels, ("adaptive", "sliding", "caffe"), strict=True):
        panel.set_title(f'bins="{rule}"', fontsize=9, loc="left")
        for cell in range(length):
            box(panel, cell, 0, colour="#dddddd", text=str(cell))
        edges = sppfast.Pyramid(n, rule).edges(length, n)
        for i, (start, stop) in enumerate(edges):
            box(panel, start, -1.1 - 0.8 * (i % 2), stop - start, 0.7, COLOURS[i], f"{start} to {stop - 1}")
        panel.set(xlim=(-0.1, length + 0.1), ylim=(-2, 1.1))
    save(figure, path)


def draw_rounding(path):
    """Draw which cells a window becomes along one axis, by each rounding."""
    x0, x1, stride, count = 21, 99, 16, 9
    figure = Figure(figsize=(WIDTH, 2.6), dpi=160)
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    axes.axis("off")
    for cell in range(count):
        box(axes, cell - 0.5, 0, colour="#dddddd", text=str(cell))
        axes.text(cell, 1.25, str(stride * cell), ha="center", fontsize=7, color=GREY)
    axes.text(-0.5, 1.75, "cells, and the pixels at their centres (stride 16)", fontsize=8)
    axes.plot([x0 / stride, x1 / stride], [-0.45] * 2, color="#ee6677", linewidth=3, solid_capstyle="butt")
    axes.text(x1 / stride + 0.15, -0.45, f"window, {x0} to {x1}", va="center", fontsize=8)
    ((left, _, right, _),) = sppfast.ConvGeometry(stride).cells([[x0, 0, x1, 0]], 1, count)
    rows = {
        'rounding="sppnet"': (left - 0.5, right - 0.5),
        'rounding="fast_rcnn"': (round(x0 / stride) - 0.5, round(x1 / stride) + 0.5),
        "roi_align, aligned": (x0 / stride - 0.5, x1 / stride - 0.5),
    }
    for i, (name, (start, stop)) in enumerate(rows.items()):
        box(axes, start, -1.6 - i, stop - start, 0.7, COLOURS[i])
        axes.text(6.85, -1.25 - i, name, va="center", fontsize=8)
    axes.set(xlim=(-0.6, 9.6), ylim=(-3.8, 2.3))
    save(figure, path)


# ---- how the kernels work


def draw_kernel(path):
    """Draw the way of a map through the CPU kernel: plan, pack, reduce, write."""
    figure, panels = canvas(7.2, 4, top=0.96, hspace=0.35)
    titles = ("plan: integer edges of each axis", "pack: channels side by side", "reduce: whole vectors of channels")
    steps = (_plan, _pack, _reduce, _write)
    for i, (panel, title, step) in enumerate(
        zip(panels, (*titles, "write: scattered back into rows"), steps, strict=True)
    ):
        panel.set_title(f"{i + 1}. {title}", fontsize=9, loc="left")
        panel.set(xlim=(-0.1, 20.1), ylim=(-0.2, 6.2))
        step(panel)
    save(figure, path)


def _plan(axes):
    width = 20 / 13
    for cell in range(13):
        box(axes, width * cell, 5, width, colour="#dddddd", text=str(cell))
    for row, n in enumerate((4, 2, 1)):
        for i, (start, stop) in enumerate(sppfast.Pyramid(n).edges(13, n)):
            shades = COLOURS[i] if n == BINS else "#bbbbbb"
            y = 3.9 - 1.7 * row - 0.75 * (i % 2)
            box(axes, width * start, y, width * (stop - start), 0.7, shades, f"[{start}, {stop})")


def _lanes(axes, x, y, text="", *, width=0.9):
    """One cell, or one bin: a column with a value of each channel."""
    for channel in range(CHANNELS):
        box(axes, x, y + 0.9 * (CHANNELS - 1 - channel), width, 0.9, COLOURS[channel])
    axes.text(x + width / 2, y - 0.2, text, ha="center", va="top", fontsize=7)


def _pack(axes):
    for channel in reversed(range(CHANNELS)):
        for cell in range(12):
            x, y = 0.9 * (cell % 4) + 0.7 * channel, 0.9 * (2 - cell // 4) + 0.7 * channel + 0.8
            box(axes, x, y, 0.9, 0.9, COLOURS[channel], str(cell) if channel == 0 else "")
    axes.text(0, 0.5, "map, channel by channel", va="top", fontsize=7)
    arrow(axes, (6.1, 3), (8.2, 3))
    for cell in range(12):
        _lanes(axes, 8.7 + 0.92 * cell, 1.6, str(cell))
    axes.text(8.7, 0.5, "tile: each cell is one vector", va="top", fontsize=7)


def _reduce(axes):
    for i, cells in enumerate(((0, 1, 4, 5), (2, 3, 6, 7))):
        for k, cell in enumerate(cells):
            _lanes(axes, 10.4 * i + 0.92 * k, 1.6, str(cell))
        x = 10.4 * i + 3.8
        arrow(axes, (x, 3.4), (x + 2.4, 3.4))
        axes.text(x + 1.1, 3.7, "max", ha="center", fontsize=8)
        _lanes(axes, x + 2.7, 1.6, f"bin {i}", width=1.2)
    axes.text(0, 0.5, "coarser levels are reduced from these bins, not from cells", va="top", fontsize=7)


def _write(axes):
    for i in range(BINS):
        _lanes(axes, 1.25 * i, 1.6, f"bin {i}", width=1.2)
    arrow(axes, (5.3, 3.4), (7.4, 3.4))
    for k in range(CHANNELS * BINS):
        box(axes, 8 + 0.75 * k, 2.9, 0.75, 0.9, COLOURS[k // BINS], str(k % BINS))
    axes.text(8, 2.6, "the result's row: channel by channel, bin by bin", va="top", fontsize=7)


def main(folder=IMAGES):
    """Draw all pictures."""
    draw_levels(folder / "levels.jpg")
    draw_window(folder / "window.jpg")
    draw_rules(folder / "rules.svg")
    draw_rounding(folder / "rounding.svg")
    draw_kernel(folder / "kernel.svg")


if __name__ == "__main__":
    main()
