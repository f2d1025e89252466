"""COCO data loaders, SGD and step schedules, as in the papers.

``dataloader`` is the usual loader, with a short edge of 800 pixels. ``dataloader_masks`` also loads
masks. ``dataloader_512`` is the loader of AP, aLRP and APE Loss: 512 x 512 pixels with SSD's
augmentation. ``dataloader_squares`` is the loader of aLRP Loss at 800 x 800 pixels, with the same
augmentation. ``dataloader_550`` is the loader of YOLACT: 550 x 550 pixels with masks, the same
augmentation, and no object of less than 4 pixels.

Detectron2 drops images without objects (or with crowds only); 117,266 images remain. Like the
papers, the mapper drops objects that are less than a pixel wide or high. The papers also drop
images with a side below 32 pixels, but COCO has none.
"""

from copy import deepcopy

import detectron2.data.transforms as T
import torch
from detectron2.config import LazyCall as L
from detectron2.data import (
    DatasetMapper,
    build_detection_test_loader,
    get_detection_dataset_dicts,
)
from detectron2.solver.build import get_default_optimizer_params
from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    CosineParamScheduler,
    MultiStepParamScheduler,
)
from omegaconf import DictConfig, OmegaConf

from ranking_det.data.augmentation import Expand, MinIoURandomCrop, PhotometricDistortion
from ranking_det.data.mapper import BoxMapper
from ranking_det.data.stream import build_train_loader
from ranking_det.evaluation import DetectionEvaluator
from ranking_det.solver import PerEpoch, warm_up

from .train import train

IMAGES = 117_266

dataloader = OmegaConf.create()

dataloader.train = L(build_train_loader)(
    dataset=L(get_detection_dataset_dicts)(names="coco_2017_train"),
    mapper=L(BoxMapper)(
        augmentations=[
            L(T.ResizeShortestEdge)(short_edge_length=800, max_size=1333),
            L(T.RandomFlip)(),
        ],
        image_format="RGB",
    ),
    total_batch_size=16,
    aspect_ratio_grouping=True,
    num_workers=4,
    seed="${train.seed}",
)

dataloader.test = L(build_detection_test_loader)(
    dataset=L(get_detection_dataset_dicts)(names="coco_2017_val", filter_empty=False),
    mapper=L(DatasetMapper)(
        is_train=False,
        augmentations=[L(T.ResizeShortestEdge)(short_edge_length=800, max_size=1333)],
        image_format="RGB",
    ),
    num_workers=4,
)

dataloader.evaluator = L(DetectionEvaluator)(
    dataset_name="${..test.dataset.names}", output_dir="${train.output_dir}"
)

dataloader_masks = deepcopy(dataloader)
dataloader_masks.train.mapper.masks = True

dataloader_512 = deepcopy(dataloader)
dataloader_512.train.mapper.augmentations = [
    L(PhotometricDistortion)(),
    L(Expand)(fill=[123.675, 116.28, 103.53]),
    L(MinIoURandomCrop)(),
    L(T.Resize)(shape=[512, 512]),
    L(T.RandomFlip)(),
]
# All images have the same size.
dataloader_512.train.aspect_ratio_grouping = False
dataloader_512.test.mapper.augmentations = [
    L(T.ResizeShortestEdge)(short_edge_length=500, max_size=833)
]

dataloader_squares = deepcopy(dataloader_512)
dataloader_squares.train.mapper.augmentations[3].shape = [800, 800]
dataloader_squares.test.mapper.augmentations = dataloader.test.mapper.augmentations

dataloader_550 = deepcopy(dataloader_512)
dataloader_550.train.mapper.masks = True
dataloader_550.train.mapper.min_side = 4.0
dataloader_550.train.mapper.augmentations[3].shape = [550, 550]
dataloader_550.test.mapper.augmentations = [L(T.Resize)(shape=[550, 550])]

# As in the papers, weight decay also applies to norms and biases.
optimizer = L(torch.optim.SGD)(
    params=L(get_default_optimizer_params)(), lr=0.01, momentum=0.9, weight_decay=1e-4
)


def resize(*sizes: int, max_size: int = 1333) -> DictConfig:
    """Multi-scale resizing: a random short edge from ``sizes``, a long edge of at most a limit."""
    return L(T.ResizeShortestEdge)(
        short_edge_length=list(sizes), max_size=max_size, sample_style="choice"
    )


def resize_between(shortest: int, longest: int) -> DictConfig:
    """Multi-scale resizing: any short edge in a range, a long edge of at most 1,333 px."""
    return L(T.ResizeShortestEdge)(
        short_edge_length=[shortest, longest], max_size=1333, sample_style="range"
    )


def iterations(epochs: int, batch: int = 16, images: int = IMAGES) -> int:
    """Return the number of iterations in ``epochs``.

    An epoch of COCO has 7,330 iterations of 16 images, or 3,665 of 32.
    """
    return epochs * -(-images // batch)


def length(epochs: int, batch: int = 16, images: int = IMAGES) -> dict[str, int]:
    """Return the entries of ``train`` for a run of ``epochs``.

    The engine rescales them for other data or another batch size.
    """
    return {
        "epochs": epochs,
        "reference_batch": batch,
        "iterations_per_epoch": iterations(1, batch, images),
        "max_iter": iterations(epochs, batch, images),
    }


def schedule(epochs: int, steps: list[int], stages: int = 1) -> DictConfig:
    """Step learning-rate schedule with a linear warm-up of 500 iterations.

    Args:
        epochs: length of a stage.
        steps: epochs at which the learning rate is divided by 10.
        stages: number of stages; each one restarts the schedule with its warm-up.
    """
    stage = L(warm_up)(
        scheduler=L(MultiStepParamScheduler)(
            values=[10.0**-i for i in range(len(steps) + 1)], milestones=steps, num_updates=epochs
        ),
        factor=0.001,
        iterations=500,
        max_iter="${train.max_iter}",
        share=1 / stages,
    )
    if stages == 1:
        return stage
    return L(CompositeParamScheduler)(
        schedulers=[stage] * stages,
        lengths=[1 / stages] * stages,
        interval_scaling=["rescaled"] * stages,
    )


def cosine_per_epoch(factor: float = 0.1) -> DictConfig:
    """Half-cosine learning-rate schedule, updated once per epoch, with a warm-up of 500 iterations.

    Args:
        factor: factor of the learning rate in the first iteration.
    """
    return L(warm_up)(
        scheduler=L(PerEpoch)(
            scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.0),
            iterations_per_epoch="${train.iterations_per_epoch}",
            max_iter="${train.max_iter}",
        ),
        factor=factor,
        iterations=500,
        max_iter="${train.max_iter}",
    )


# ImageNet weights in Detectron2's format. Detectron2 downloads those of ResNet-50. Make the others
# with tools/convert_weights.py: the first three from torchvision's weights, the last from
# mmdetection's weights of Res2Net-101 v1d 26w x 4s (docs/training.md).
train.init_checkpoint = "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
RESNET_34 = "R-34.pkl"
RESNET_101 = "R-101.pkl"
RESNEXT_101 = "X-101-64x4d.pkl"
RES2NET_101 = "R2-101-v1d.pkl"
train.checkpointer.period = iterations(1)
train.eval_period = iterations(4)
