"""Pooling of whole maps."""

from functools import partial

import numpy as np

import sppfast

from .common import CHANNELS, LEVELS, MAP, STRIDE, _Calls, _Tracked, make_maps, rate


class ImageSizes(_Tracked):
    """Four images of each size that the paper uses."""

    params = (224, 384, 480, 576, 688, 864, 1200)
    param_names = ("side",)

    def build(self, side):
        return sppfast.pool, (make_maps((4, CHANNELS, side // STRIDE, side // STRIDE)),), {"levels": LEVELS}

    def track_pixels(self, side):
        self.call(side)
        return rate(partial(self.call, side), 4 * side**2 / 1e6)

    track_pixels.unit = "Mpixel/s"


class Small(_Tracked):
    """The smallest maps, and many of them."""

    number = 200
    params = ("1x8x13x13", "1x2048x7x7", "512x16x1x1")
    param_names = ("shape",)

    def build(self, shape):
        return sppfast.pool, (make_maps(tuple(map(int, shape.split("x")))),), {}


class Large(Small):
    """The largest maps, and large batches."""

    number = 5
    params = ("64x256x13x13", "1x3x1024x1024", "1x64x512x512", "1x64x1024x1024")


class Dtypes(_Calls):
    """Every width of an item, both reductions."""

    params = (("uint8", "int8", "int16", "float16", "float32", "float64"), ("max", "avg"))
    param_names = ("dtype", "mode")

    def build(self, dtype, mode):
        return sppfast.pool, (make_maps((4, CHANNELS, *MAP), dtype),), {"levels": LEVELS, "mode": mode}


class Options(_Calls):
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

    def build(self, option):
        x, options = make_maps((4, CHANNELS, *MAP)), {"levels": LEVELS}
        if option.startswith("levels "):
            options["levels"] = tuple(map(int, option.split()[1].split(",")))
        elif option == "NHWC":
            x = np.ascontiguousarray(np.moveaxis(x, 1, -1))
            options["layout"] = "NHWC"
        elif option == "ragged":
            x = [each[:, : 38 - i, : 63 - i] for i, each in enumerate(x)]
        else:
            options |= {"return_indices": True} if option == "return_indices" else {"workers": 1}
        return sppfast.pool, (x,), options
