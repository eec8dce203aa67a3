"""The operators on arrays of CuPy, where there is a GPU."""

import sppfast

from .common import CHANNELS, LEVELS, MAP, STRIDE, make_maps, make_rois, rate


class Gpu:
    """Each returns when the GPU is done."""

    params = ("pool, 1 image", "pool, 64 images", "roi_pool, 2000 windows", "roi_align, 2000 windows")
    param_names = ("work",)

    def setup(self, work):
        try:
            import cupy

            self.device = cupy.cuda.Device()
            self.device.synchronize()
        except Exception as error:  # no CuPy, no driver, no card
            raise NotImplementedError(f"no GPU: {error}") from error
        self.operator, _, amount = work.partition(", ")
        count = int(amount.split()[0])
        whole = self.operator == "pool"
        self.x = cupy.asarray(make_maps((count if whole else 1, CHANNELS, *MAP)))
        self.windows = () if whole else (cupy.asarray(make_rois(count, MAP)),)
        self.options = {"levels": LEVELS} | ({} if whole else {"geometry": STRIDE})
        self.time_call(work)

    def time_call(self, work):
        y = getattr(sppfast, self.operator)(self.x, *self.windows, **self.options)
        self.device.synchronize()
        return y

    def track_bandwidth(self, work):
        y = self.time_call(work)
        return rate(lambda: self.time_call(work), (self.x.nbytes + y.nbytes) / 1e9)

    track_bandwidth.unit = "GB/s"
