"""The paper's detection experiment: learn from VOC 2007 trainval, test on VOC 2007 test.

    python benchmarks/voc2007.py VOCdevkit/VOC2007 --body zf5.onnx --mean 123.7 116.8 103.9 --out detector.npz

Needs the data set, and a convolutional body trained on ImageNet as an ONNX model (--output names the tensor that is the
map, where the model has a head). Prints the 11-point average precision of each class, as the paper does.
By calculation, not by trial: the features of true boxes, windows near them and negatives take about 10 GB of memory,
the five scales of 5011 pictures twice, and of 4952 once, a day on two cores.
"""

import argparse
import sys
from pathlib import Path

from sppfast import sppnet
from sppfast.progress import tracked


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="VOC2007")
    parser.add_argument("--body", type=Path, required=True, metavar="FILE.onnx")
    parser.add_argument("--output", metavar="TENSOR", help="the map, if it is not the only output")
    parser.add_argument("--mean", type=float, nargs=3, default=(0, 0, 0), metavar=("R", "G", "B"), help="[0 0 0]")
    parser.add_argument("--std", type=float, nargs=3, default=(1, 1, 1), metavar=("R", "G", "B"), help="[1 1 1]")
    parser.add_argument("--scales", type=int, nargs="+", default=(480, 576, 688, 864, 1200), help="[480 ... 1200]")
    parser.add_argument("--max-negatives", type=int, default=1000, metavar="N", help="of each class, each time [1000]")
    parser.add_argument("--train", default="trainval", metavar="SPLIT", help="[trainval]")
    parser.add_argument("--test", default="test", metavar="SPLIT", help="[test]")
    parser.add_argument("--out", type=Path, metavar="FILE.npz", help="save the detector there")
    arguments = parser.parse_args()

    train, test = (sppnet.load_voc(arguments.folder, split) for split in (arguments.train, arguments.test))
    backbone = sppnet.OnnxBackbone(arguments.body, output=arguments.output, mean=arguments.mean, std=arguments.std)
    options = {"scales": arguments.scales, "max_negatives": arguments.max_negatives}
    detector = sppnet.SPPDetector(backbone, **options).fit(*train.without_difficult())
    if arguments.out:
        detector.save(arguments.out)
    predictions = [detector.predict(image) for image in tracked(test.images, "images", "detection")]
    mean, classes = sppnet.mean_average_precision(
        predictions, test.boxes, test.labels, difficult=test.difficult, method="11-point"
    )
    for name, precision in classes.items():
        print(f"{name:<16}{precision:>7.1%}")
    print(f"{'mAP':<16}{mean:>7.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
