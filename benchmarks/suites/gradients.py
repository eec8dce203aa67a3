"""Gradients with respect to the maps."""

import sppfast

from .common import CHANNELS, MAP, STRIDE, _Tracked, make_maps, make_rois

WINDOWS = 2000


class Gradients(_Tracked):
    """Four maps, or 2000 windows of one. ONNX's maximum is seldom trained through, and is left out."""

    number = 2
    params = ("pool max", "pool avg", "roi_pool max", "roi_pool avg", "roi_align avg")
    param_names = ("operator",)
    track_bandwidth = None  # not all of the arrays are read

    def build(self, work):
        operator, mode = work.split()
        whole = operator == "pool"
        x = make_maps((4 if whole else 1, CHANNELS, *MAP))
        windows = () if whole else (make_rois(WINDOWS, MAP),)
        options = {"levels": (4, 2, 1) if whole else 7, "mode": mode} | ({} if whole else {"geometry": STRIDE})
        forward, backward = getattr(sppfast, operator), getattr(sppfast, f"{operator}_backward")
        if mode == "avg":
            return backward, (forward(x, *windows, **options), x, *windows), options
        grad, indices = forward(x, *windows, **options, return_indices=True)
        return backward, (grad, x, *windows), options | {"indices": indices}
