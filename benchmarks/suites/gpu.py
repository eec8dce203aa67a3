"""The operators on arrays of CuPy, where there is a GPU."""

from asv_runner.benchmarks.mark import SkipNotImplemented

import sppfast

from .common import CHANNELS, LEVELS, MAP, STRIDE, _Tracked, make_maps, make_rois


class Gpu(_Tracked):
    """Each returns when the GPU is done."""

    params = ("pool, 1 image", "pool, 64 images", "roi_pool, 2000 windows", "roi_align, 2000 windows")
    param_names = ("work",)
    peakmem_call = None  # would tell the host's

    def build(self, work):
        try:
            import cupy

            device = cupy.cuda.Device()
            device.synchronize()
        except Exception as error:  # no CuPy, no driver, no card
            raise SkipNotImplemented(f"no GPU: {error}") from error
        name, _, amount = work.partition(", ")
        count, whole, operator = int(amount.split()[0]), name == "pool", getattr(sppfast, name)
        x = cupy.asarray(make_maps((count if whole else 1, CHANNELS, *MAP)))
        windows = () if whole else (cupy.asarray(make_rois(count, MAP)),)

        def run(*arrays, **options):
            y = operator(*arrays, **options)
            device.synchronize()
            return y

        return run, (x, *windows), {"levels": LEVELS} | ({} if whole else {"geometry": STRIDE})
