"""Pooling of whole maps."""

import numpy as np

import sppfast

from .common import CHANNELS, LEVELS, MAP, STRIDE, make_maps, rate


class ImageSizes:
    """Four images of each size that the paper uses."""

    params = (224, 384, 480, 576, 688, 864, 1200)
    param_names = ("side",)

    def setup(self, side):
        """Pool once, which compiles."""
        self.x = make_maps((4, CHANNELS, side // STRIDE, side // STRIDE))
        self.pixels = 4 * side**2
        self.time_pool(side)

    def time_pool(self, side):
        return sppfast.pool(self.x, LEVELS)

    def peakmem_pool(self, side):
        return sppfast.pool(self.x, LEVELS)

    def track_pixels(self, side):
        return rate(lambda: sppfast.pool(self.x, LEVELS), self.pixels / 1e6)

    def track_bandwidth(self, side):
        return rate(lambda: sppfast.pool(self.x, LEVELS), self.x.nbytes / 1e9)

    track_pixels.unit = "Mpixel/s"
    track_bandwidth.unit = "GB/s"


class Extremes:
    """The smallest and the largest maps."""

    params = ("1x8x13x13", "512x16x1x1", "64x256x13x13", "1x2048x7x7", "1x64x512x512", "1x3x1024x1024")
    param_names = ("shape",)

    def setup(self, shape):
        self.x = make_maps(tuple(map(int, shape.split("x"))))
        self.time_pool(shape)

    def time_pool(self, shape):
        return sppfast.pool(self.x)


class Dtypes:
    """Every width of an item, both reductions."""

    params = (("uint8", "int8", "int16", "float16", "float32", "float64"), ("max", "avg"))
    param_names = ("dtype", "mode")

    def setup(self, dtype, mode):
        self.x = make_maps((4, CHANNELS, *MAP), dtype)
        self.time_pool(dtype, mode)

    def time_pool(self, dtype, mode):
        return sppfast.pool(self.x, LEVELS, mode=mode)


class Options:
    """Layouts, levels, and what else a call may ask for."""

    params = (
        "levels 1",
        "levels 4,2,1",
        "levels 6,3,2,1",
        "levels 7,5,3",
        "levels 13",
        "NHWC",
        "return_indices",
        "ragged",
        "1 thread",
    )
    param_names = ("option",)

    def setup(self, option):
        self.x = make_maps((4, CHANNELS, *MAP))
        self.options = {"levels": LEVELS}
        if option.startswith("levels "):
            self.options["levels"] = tuple(map(int, option.split()[1].split(",")))
        elif option == "NHWC":
            self.x = np.ascontiguousarray(np.moveaxis(self.x, 1, -1))
            self.options["layout"] = "NHWC"
        elif option == "ragged":
            self.x = [x[:, : 38 - i, : 63 - i] for i, x in enumerate(self.x)]
        else:
            self.options |= {"return_indices": True} if option == "return_indices" else {"workers": 1}
        self.time_pool(option)

    def time_pool(self, option):
        return sppfast.pool(self.x, **self.options)
