"""Detection end to end: 2000 windows of a photograph's size, the paper's ZF-5 with random weights."""

import numpy as np

WINDOWS = 2000
HEIGHT, WIDTH = 375, 500


def propose(image):
    """Draw the same candidate windows in every image."""
    rng = np.random.default_rng(0)
    corners, sides = rng.uniform(0, 250, (WINDOWS, 2)), rng.uniform(30, 120, (WINDOWS, 2))
    return np.hstack([corners, corners + sides])


class Detector:
    """At one scale and at five."""

    params = ("688", "480,576,688,864,1200")
    param_names = ("scales",)
    repeat = 5

    def setup_cache(self):
        """Fit on noise: how good it is does not matter here."""
        from sppfast import sppnet

        rng = np.random.default_rng(0)
        images = list(rng.integers(0, 256, (3, HEIGHT, WIDTH, 3), dtype=np.uint8))
        boxes = [propose(image)[:4] for image in images]
        body = sppnet.OnnxBackbone(sppnet.random_body("ZF-5", lrn=False), mean=128)
        options = {"scales": (240,), "proposals": propose, "mining_rounds": 0}
        detector = sppnet.SPPDetector(body, **options).fit(images, boxes, [list("abcd")] * 3)
        detector.save("detector.npz")
        return images[0]

    def setup(self, image, scales):
        from sppfast import sppnet

        self.detector = sppnet.SPPDetector.load("detector.npz", proposals=propose)
        self.detector.set_params(scales=tuple(map(int, scales.split(","))))

    def time_predict(self, image, scales):
        return self.detector.predict(image)

    def peakmem_predict(self, image, scales):
        return self.detector.predict(image)
