"""Reader of data sets in the format of the PASCAL VOC challenge, such as ``VOC2007``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from .boxes import Boxes, check_boxes
from .images import Image, read_image


@dataclass(frozen=True, slots=True)
class ImageFiles(Sequence[Image]):
    """A sequence of images that are read when they are asked for, as RGB."""

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: Any) -> Any:
        return ImageFiles(self.paths[i]) if isinstance(i, slice) else read_image(self.paths[i])


@dataclass(frozen=True, eq=False, slots=True)
class VOCDataset:
    """Images and what is in them, see `load_voc`.

    Attributes
    ----------
    names : tuple of str
        Names of the images, such as ``"000005"``.
    images : sequence of ndarray of uint8, shape (H, W, 3)
        Read from their files each time that one is asked for.
    boxes : list of ndarray of float64, shape (Ti, 4)
        ``x0, y0, x1, y1`` in continuous coordinates: the first pixel of an image is from 0 to 1.
    labels : list of ndarray of str, shape (Ti,)
        Classes.
    difficult : list of ndarray of bool, shape (Ti,)
        Which objects the challenge does not count.
    """

    names: tuple[str, ...]
    images: Sequence[Image]
    boxes: list[Boxes]
    labels: list[NDArray[np.str_]]
    difficult: list[NDArray[np.bool_]]

    def without_difficult(self) -> tuple[Sequence[Image], list[Boxes], list[NDArray[np.str_]]]:
        """Give images, boxes and labels to learn from."""
        easy = [~marks for marks in self.difficult]
        boxes = [b[e] for b, e in zip(self.boxes, easy, strict=True)]
        labels = [n[e] for n, e in zip(self.labels, easy, strict=True)]
        return self.images, boxes, labels


def load_voc(folder: str | os.PathLike[str], split: str) -> VOCDataset:
    """Read one split of a data set in the format of PASCAL VOC.

    Parameters
    ----------
    folder : path
        With ``JPEGImages/*.jpg``, ``Annotations/*.xml`` and ``ImageSets/Main/*.txt``.
    split : str
        Such as ``"trainval"`` or ``"test"``: the file in ``ImageSets/Main`` that lists the images.

    Returns
    -------
    VOCDataset
        The annotations are read at once, the images when they are asked for.

    Raises
    ------
    OSError
        If a file cannot be read.
    ValueError
        If an annotation or the list is none; the message names the file.

    References
    ----------
    Everingham et al.: The PASCAL Visual Object Classes (VOC) Challenge, IJCV 2010.

    Examples
    --------
    >>> from sppfast.sppnet import load_voc
    >>> voc = load_voc("VOCdevkit/VOC2007", "trainval")  # doctest: +SKIP
    >>> len(voc.images), voc.labels[0]  # doctest: +SKIP
    (5011, array(['chair', 'chair', 'chair', 'chair', 'chair'], dtype='<U5'))
    """
    root = Path(folder)
    listed = root / "ImageSets" / "Main" / f"{split}.txt"
    names = tuple(line.split()[0] for line in listed.read_text().splitlines() if line.strip())
    if not names:
        raise ValueError(f"{listed}: lists no images")
    annotations = [_read_annotation(root / "Annotations" / f"{name}.xml") for name in names]
    boxes, labels, difficult = (list(column) for column in zip(*annotations, strict=True))
    files = ImageFiles(tuple(root / "JPEGImages" / f"{name}.jpg" for name in names))
    return VOCDataset(names, files, boxes, labels, difficult)


def _read_annotation(path: Path) -> tuple[Boxes, NDArray[np.str_], NDArray[np.bool_]]:
    """Read the objects of an image: boxes, classes, and which are difficult."""
    try:
        objects = ElementTree.parse(path).getroot().findall("object")
        corners = [
            [float(o.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax")] for o in objects
        ]
        # Pixels are counted from 1 there, and the last one belongs to the box.
        boxes = check_boxes(np.reshape(corners, (-1, 4)) - [1, 1, 0, 0], "bndbox", filled=True)
        labels = np.array([o.findtext("name", "").strip() for o in objects], np.str_)
        if not all(labels):
            raise ValueError("an object without a name")
        difficult = np.array([o.findtext("difficult", "0").strip() == "1" for o in objects], np.bool_)
    except (ElementTree.ParseError, ValueError) as error:
        raise ValueError(f"{path}: not an annotation of PASCAL VOC: {error}") from error
    return boxes, labels, difficult
