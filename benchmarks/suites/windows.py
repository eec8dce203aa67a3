"""Pooling of windows: RoI pooling and RoI align."""

import numpy as np

import sppfast

from .common import CHANNELS, LEVELS, MAP, STRIDE, make_maps, make_rois, rate

COUNTS = (100, 300, 2000, 10_000)
SIZES = ((38, 63), (75, 75))  # of images of 608 x 1008 and of 1200 x 1200 pixels


class _Windows:
    params = (COUNTS, SIZES)
    param_names = ("windows", "map")

    def setup(self, count, size):
        self.x, self.rois = make_maps((1, CHANNELS, *size)), make_rois(count, size)
        self.call()

    def time_call(self, count, size):
        self.call()

    def peakmem_call(self, count, size):
        self.call()

    def track_bandwidth(self, count, size):
        return rate(self.call, self.call().nbytes / 1e9)

    track_bandwidth.unit = "GB/s"


class RoiPool(_Windows):
    """50 bins, in three levels and one."""

    def call(self):
        return sppfast.roi_pool(self.x, self.rois, LEVELS, geometry=STRIDE)


class RoiAlign(_Windows):
    """7 x 7 bins."""

    def call(self):
        return sppfast.roi_align(self.x, self.rois, 7, geometry=STRIDE)


class Options:
    """2000 windows, one thing at a time changed."""

    params = (
        ("roi_pool", "roi_align"),
        ("none", "out", "levels 7", "avg", "max", "float16", "float64", "NHWC", "1 thread"),
    )
    param_names = ("operator", "option")

    def setup(self, operator, option):
        dtype = option if option.startswith("float") else "float32"
        self.x, self.rois = make_maps((1, CHANNELS, *MAP), dtype), make_rois(2000, MAP)
        self.options = {"levels": 7 if option == "levels 7" else LEVELS}
        if option in ("avg", "max"):
            self.options["mode"] = option
        elif option == "NHWC":
            self.x = np.ascontiguousarray(np.moveaxis(self.x, 1, -1))
            self.options["layout"] = option
        elif option == "1 thread":
            self.options["workers"] = 1
        elif option == "out":
            self.options["out"] = np.empty((2000, sppfast.Pyramid(LEVELS).output_length(CHANNELS)), np.float32)
        self.time_call(operator, option)

    def time_call(self, operator, option):
        getattr(sppfast, operator)(self.x, self.rois, geometry=STRIDE, **self.options)
