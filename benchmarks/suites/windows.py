"""Pooling of windows: RoI pooling and RoI align."""

import numpy as np

import sppfast

from .common import CHANNELS, LEVELS, MAP, STRIDE, _Calls, _Tracked, make_maps, make_rois

COUNTS = (100, 300, 2000, 10_000)
SIZES = ((14, 14), (38, 63), (75, 75))  # of images of 224 x 224, 608 x 1008 and 1200 x 1200 pixels


class RoiPool(_Tracked):
    """50 bins, in three levels and one."""

    number = 2
    params = (COUNTS, SIZES)
    param_names = ("windows", "map")

    def build(self, count, size):
        arrays = make_maps((1, CHANNELS, *size)), make_rois(count, size)
        return sppfast.roi_pool, arrays, {"levels": LEVELS, "geometry": STRIDE}


class RoiAlign(RoiPool):
    """7 x 7 bins."""

    def build(self, count, size):
        _, arrays, options = super().build(count, size)
        return sppfast.roi_align, arrays, options | {"levels": 7}


class Options(_Calls):
    """2000 windows, one thing at a time changed."""

    number = 2
    params = (
        ("roi_pool", "roi_align"),
        ("none", "out", "levels 7", "avg", "max", "float16", "float64", "NHWC", "1 thread"),
    )
    param_names = ("operator", "option")

    def build(self, operator, option):
        x = make_maps((1, CHANNELS, *MAP), option if option.startswith("float") else "float32")
        options = {"levels": 7 if option == "levels 7" else LEVELS, "geometry": STRIDE}
        if option in ("avg", "max"):
            options["mode"] = option
        elif option == "NHWC":
            x = np.ascontiguousarray(np.moveaxis(x, 1, -1))
            options["layout"] = option
        elif option == "1 thread":
            options["workers"] = 1
        elif option == "out":
            options["out"] = np.empty((2000, sppfast.Pyramid(LEVELS).output_length(CHANNELS)), np.float32)
        return getattr(sppfast, operator), (x, make_rois(2000, MAP)), options
