"""Gradients with respect to the maps."""

import sppfast

from .common import CHANNELS, MAP, STRIDE, make_maps, make_rois

WINDOWS = 2000


class Gradients:
    """Four maps, or 2000 windows of one."""

    params = (("pool", "roi_pool", "roi_align"), ("max", "avg"))
    param_names = ("operator", "mode")

    def setup(self, operator, mode):
        if (operator, mode) == ("roi_align", "max"):
            raise NotImplementedError("ONNX's maximum is seldom trained through, and takes a second")
        whole = operator == "pool"
        self.x = make_maps((4 if whole else 1, CHANNELS, *MAP))
        self.windows = () if whole else (make_rois(WINDOWS, MAP),)
        self.options = {"levels": (4, 2, 1) if whole else 7, "mode": mode}
        self.options |= {} if whole else {"geometry": STRIDE}
        indices = {"return_indices": True} if mode == "max" else {}
        y = getattr(sppfast, operator)(self.x, *self.windows, **self.options, **indices)
        self.grad, self.options["indices"] = y if mode == "max" else (y, None)
        if operator == "roi_align":
            del self.options["indices"]
        self.time_backward(operator, mode)

    def time_backward(self, operator, mode):
        getattr(sppfast, f"{operator}_backward")(self.grad, self.x, *self.windows, **self.options)

    def peakmem_backward(self, operator, mode):
        self.time_backward(operator, mode)
