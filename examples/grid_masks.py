"""An architecture in one file: each cell of a grid predicts classes and a mask, but no box.

The detector is a small relative of SOLO (Wang et al., ECCV 2020) and CondInst (Tian et al., ECCV
2020). A cell near an object's center learns the object's class. Its mask is a weighted sum of
feature maps that all cells share; the cell predicts the weights. Copy the file and change what
differs in your detector.

    python train_net.py --config-file examples/grid_masks_shapes.py

trains it. ``--resume``, ``--preview 4``, ``--predict``, ``--eval-only`` and ``--train-json`` work
as for any detector. The config imports this file by its name. A file in another folder must be on
PYTHONPATH. A yaml config may call only classes and functions on a list of safe names, so the
``config.yaml`` that a run saves needs ``--trust-config``. No other file of the project knows the
detector, which does four things:

1. It has the input and output of Detectron2's models: a dict of losses in training, and otherwise a
   dict with "instances" for each image (``forward``).
2. It asks an assigner which cells are positive for which object (``assign``). The assigner is one
   of :mod:`ranking_det.assigners` or a custom one, such as :class:`CenterRegion`.
3. It collects predictions and targets in :class:`Candidates`, and calls a criterion of
   :mod:`ranking_det.criteria` on them (``losses``).
4. It derives from :class:`DetectorInterface` and tells the commands how many classes it has,
   whether it learns masks, and which cells are positive (``find_positives``).

Names and shapes:
    N           images of a batch, padded to the same H x W pixels
    cells       of the grid, one per 8 x 8 pixels
    R           cells of all images, image by image, then row by row
    K           classes; the R x K scores are ranked together
    P           positives, the cells that are assigned to an object
    C           shared maps of h x w pixels, one pixel per 4 x 4 of the image
    kernels     (R, C + 5), the weights that a cell predicts for the shared maps and an ellipse
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.structures import BitMasks, ImageList, Instances, PolygonMasks
from torch import Tensor, nn
from torch.nn import functional

from ranking_det import assigners, criteria
from ranking_det.assigners import Assigner, Assignment, ImageInputs
from ranking_det.components import build_component
from ranking_det.criteria import Candidates, CriterionBase, MaskTargets
from ranking_det.labels import BACKGROUND
from ranking_det.layers import HardNMS
from ranking_det.modeling import DetectorInterface, Positives
from ranking_det.modeling.feature_maps import image_and_level, valid_cells
from ranking_det.modeling.step_metrics import log_metrics

SIDE = 8
"""Side, in strides, of the square around a cell's center that is the cell's anchor."""


class CenterRegion(Assigner):
    """Assign the cells with their center in the central region of an object, as in SOLO.

    The sides of the region are ``size`` times the object's. They are at least three cells long, or
    as long as the object's sides if these are shorter. The cell that holds the object's center is
    always positive. A cell in the region of several objects is assigned to the smallest one. All
    other cells are background.

    Args:
        size: sides of the region relative to the object's, in [0, 1].
    """

    one_per_location = True

    def __init__(self, size: float = 0.3) -> None:
        super().__init__()
        self.size = size

    def match(self, image: ImageInputs) -> Tensor:
        """Match the cells of one image; the base class calls it for each image of the batch.

        Args:
            image: the anchors of its cells, and its objects.

        Returns:
            (cells,) int64: the object 0..G-1 of each cell, or BACKGROUND.
        """
        gt_boxes = image.gt_boxes
        if not len(gt_boxes):
            return torch.full_like(image.valid, BACKGROUND, dtype=torch.int64)
        squares, boxes = torch.cat(list(image.anchors))[:, None], gt_boxes[None]
        sides = boxes[..., 2:] - boxes[..., :2]
        stride = (squares[..., 2:] - squares[..., :2]) / SIDE
        centers = (squares[..., 2:] + squares[..., :2]) / 2
        offsets = (centers - (boxes[..., 2:] + boxes[..., :2]) / 2).abs()
        middle = torch.maximum(self.size * sides, torch.minimum(sides, 3 * stride))
        is_inside = (offsets <= torch.maximum(middle, stride) / 2).all(dim=2)
        area = torch.where(is_inside & image.valid[:, None], sides.prod(dim=2), torch.inf)
        smallest, index = area.min(dim=1)
        return torch.where(smallest < torch.inf, index, BACKGROUND)


class GridPredictions(NamedTuple):
    """Raw outputs of the network for N images."""

    logits: Tensor
    """(R, K) raw class scores."""
    kernels: Tensor
    """(R, C + 5)."""
    maps: Tensor
    """(N, C, h, w)."""


@META_ARCH_REGISTRY.register()
class GridMasks(DetectorInterface, nn.Module):
    """Predict classes and a mask for each cell of a grid.

    Args:
        backbone: Detectron2 backbone, such as an FPN.
        in_features: names of its features, the finest first. The first gives the shared maps.
            The pixels of the second are the cells; the coarser ones are added to it.
        assigner: such as :class:`CenterRegion`.
        criterion: with a localization task on masks, and without a branch.
        num_classes: K.
        num_maps: C.
        num_convs: convolutions before each output.
        suppression: NMS on the boxes around the masks; see :mod:`ranking_det.layers.suppression`.
        topk: pairs of cell and class that are kept per image before NMS.
        max_detections: detections per image.
        pixel_mean: mean of the pixels per channel, in the order of the input format.
        pixel_std: standard deviation of the pixels per channel.
        input_format: "RGB" or "BGR", the channel order of the data loader.
    """

    # Read by the commands. The constructor sets the number of classes and the input format.
    num_classes: int
    learns_masks = True
    num_classes_key = "MODEL.RETINANET.NUM_CLASSES"  # in a yaml config

    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        in_features: Sequence[str] = ("p2", "p3", "p4", "p5"),
        assigner: Assigner,
        criterion: CriterionBase,
        num_classes: int,
        num_maps: int = 16,
        num_convs: int = 2,
        suppression: nn.Module | None = None,
        topk: int = 100,
        max_detections: int = 50,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str = "RGB",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.in_features = in_features
        self.assigner = assigner
        self.criterion = criterion
        self.num_classes = num_classes
        self.suppression = suppression or HardNMS(0.6)
        self.topk = topk
        self.max_detections = max_detections
        self.input_format = input_format
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

        shapes = [backbone.output_shape()[name] for name in in_features]
        self.map_stride, self.stride = shapes[0].stride, shapes[1].stride
        # At the start of training all scores are 1%, and all masks are discs around their cells.
        no_maps, disc = [0.0] * num_maps, [2.0, 0.0, -1.0, 0.0, -1.0]
        width = shapes[0].channels
        self.class_head = _tower(width, [-4.6] * num_classes, num_convs)
        self.kernel_head = _tower(width, no_maps + disc, num_convs)
        self.map_head = _tower(width, no_maps, num_convs)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the arguments for a yaml config with the keys of ``add_ranking_config``.

        Detectron2's ``build_model`` calls it. A detector for LazyConfigs needs no such method.
        """
        return {
            "backbone": build_backbone(cfg),
            "assigner": build_component(cfg.MODEL.ASSIGNER, assigners, "MODEL.ASSIGNER"),
            "criterion": build_component(cfg.MODEL.CRITERION, criteria, "MODEL.CRITERION"),
            "num_classes": cfg.MODEL.RETINANET.NUM_CLASSES,
            "max_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "input_format": cfg.INPUT.FORMAT,
        }

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Compute losses in training, and detections at inference.

        Args:
            batched_inputs: a dict per image with ``image`` (3, height, width). In training it has
                ``instances`` with ``gt_boxes``, ``gt_classes`` and ``gt_masks``. At inference it
                may have ``height`` and ``width``, the image size of the detections.

        Returns:
            The losses by name in training, and ``{"instances": Instances}`` per image at inference.
        """
        images = self.preprocess(batched_inputs)
        features = self.backbone(images.tensor)
        fine, grid, *coarse = (features[name] for name in self.in_features)
        for level in coarse:
            grid = grid + _resize(level, grid.shape[-2:])
        predictions = GridPredictions(
            _rows(self.class_head(grid)), _rows(self.kernel_head(grid)), self.map_head(fine)
        )
        if self.training:
            objects = [inputs["instances"].to(images.device) for inputs in batched_inputs]
            return self.losses(images, predictions, objects)
        return [
            {"instances": self.detect(images, predictions, i, inputs)}
            for i, inputs in enumerate(batched_inputs)
        ]

    def preprocess(self, batched_inputs: Sequence[dict[str, Any]]) -> ImageList:
        """Normalize the images, and pad them to one size."""
        images = [inputs["image"].to(self.pixel_mean.device) for inputs in batched_inputs]
        images = [(image - self.pixel_mean) / self.pixel_std for image in images]
        return ImageList.from_tensors(images, self.backbone.size_divisibility)

    def make_cells(self, images: ImageList) -> Tensor:
        """Return the anchors (cells, 4) of an image's cells, XYXY in pixels, for the assigner."""
        y, x = (
            (torch.arange(side // self.stride, device=images.device) + 0.5) * self.stride
            for side in images.tensor.shape[-2:]
        )
        centers = torch.cartesian_prod(y, x).flip(1)
        half = SIDE / 2 * self.stride
        return torch.cat([centers - half, centers + half], dim=1)

    def assign(self, images: ImageList, objects: Sequence[Instances]) -> Assignment:
        """Assign the R cells to ground-truth objects."""
        grid = tuple(side // self.stride for side in images.tensor.shape[-2:])
        return self.assigner(
            [self.make_cells(images)],
            [instances.gt_boxes.tensor for instances in objects],
            [instances.gt_classes for instances in objects],
            valid_cells(images.image_sizes, [grid], [self.stride], [1], images.device),
        )

    def losses(
        self, images: ImageList, predictions: GridPredictions, objects: Sequence[Instances]
    ) -> dict[str, Tensor]:
        """Assign the cells, collect the candidates, and call the criterion."""
        labels, gt_index = self.assign(images, objects)
        positives = torch.nonzero(labels >= 0).squeeze(1)
        cells = self.make_cells(images)
        image, level = image_and_level(len(images), [len(cells)], images.device)
        # Image by image, because each image has its own maps.
        counts = image[positives].bincount(minlength=len(images)).tolist()
        logits = torch.cat(
            [
                self.draw_masks(predictions.kernels[rows], cells[rows % len(cells)], maps)
                for rows, maps in zip(positives.split(counts), predictions.maps, strict=True)
            ]
        )
        masks = self.shrink_masks(images, objects)[gt_index[positives]]
        # A data set may lack the masks of some objects, and small masks may shrink to nothing.
        index = torch.nonzero(masks.flatten(1).any(dim=1)).squeeze(1)
        candidates = Candidates(
            logits=predictions.logits,
            labels=labels,
            positives=positives,
            image=image,
            level=level,
            num_images=len(images),
            masks=MaskTargets(logits=logits[index], masks=masks[index], index=index),
        )
        output = self.criterion(candidates)
        log_metrics(output.metrics)
        return output.losses

    def draw_masks(self, kernels: Tensor, cells: Tensor, maps: Tensor) -> Tensor:
        """Draw the masks of n cells of one image.

        The ellipse distinguishes the masks of cells with similar weights.

        Args:
            kernels: (n, C + 5), the weights of the cells.
            cells: (n, 4), the anchors of the cells, XYXY in pixels.
            maps: (C, h, w), the shared maps of the image.

        Returns:
            (n, h, w) logits: the weighted sum of the maps, plus an ellipse near the cell,
            constant + a x + b x^2 + c y + d y^2, with x and y in cells from the cell's center.
        """
        centers = (cells[:, :2] + cells[:, 2:]) / 2
        x, y = (
            ((torch.arange(side, device=maps.device) + 0.5) * self.map_stride - center[:, None])
            / self.stride
            for side, center in zip((maps.shape[2], maps.shape[1]), centers.unbind(1), strict=True)
        )
        constant, a, b, c, d = kernels[:, -5:, None].unbind(dim=1)
        horizontal, vertical = a * x + b * x.square(), constant + c * y + d * y.square()
        shared = torch.einsum("nc,chw->nhw", kernels[:, :-5], maps)
        return shared + horizontal[:, None, :] + vertical[:, :, None]

    def shrink_masks(self, images: ImageList, objects: Sequence[Instances]) -> Tensor:
        """Return the objects' masks (G, h, w): the share of each pixel covered, in [0, 1]."""
        height, width = images.tensor.shape[-2:]
        shrunk = []
        for instances in objects:
            masks = instances.gt_masks
            if isinstance(masks, PolygonMasks):
                masks = BitMasks.from_polygon_masks(masks, *instances.image_size)
            full_masks = masks.tensor.to(images.device, torch.float32)[:, None]
            padding = (0, width - full_masks.shape[3], 0, height - full_masks.shape[2])
            shrunk.append(
                functional.avg_pool2d(functional.pad(full_masks, padding), self.map_stride)
            )
        return torch.cat(shrunk).squeeze(1)

    def detect(
        self, images: ImageList, predictions: GridPredictions, i: int, inputs: dict[str, Any]
    ) -> Instances:
        """Return the detections of image ``i``, at the size that its inputs specify."""
        cells, (height, width) = self.make_cells(images), images.image_sizes[i]
        first, last = i * len(cells), (i + 1) * len(cells)
        scores = predictions.logits[first:last].float().sigmoid().flatten()
        scores, pairs = scores.topk(min(self.topk, len(scores)))
        rows, classes = pairs // self.num_classes, pairs % self.num_classes
        kernels = predictions.kernels[first:last][rows]
        masks = self.draw_masks(kernels, cells[rows], predictions.maps[i])
        # NMS comes before the masks are resized, which takes most of the time.
        boxes = BitMasks(masks > 0).get_bounding_boxes().tensor.to(scores.device)
        best, scores, _ = self.suppression(boxes, scores, classes, self.max_detections)
        # Resize to the padded image first, to cut off the padding.
        masks = _resize(masks[best][None], images.tensor.shape[-2:])[..., :height, :width]
        size = inputs.get("height", height), inputs.get("width", width)
        masks = _resize(masks, size)[0] > 0
        detections = Instances(size, scores=scores, pred_classes=classes[best], pred_masks=masks)
        detections.pred_boxes = BitMasks(masks).get_bounding_boxes().to(scores.device)
        return detections[detections.pred_boxes.nonempty()]

    @torch.no_grad()
    def find_positives(self, batched_inputs: Sequence[dict[str, Any]]) -> list[Positives]:
        """Return the positives for ``--preview``; see :class:`DetectorInterface`."""
        positives = []
        for inputs in batched_inputs:
            images = self.preprocess([inputs])
            labels, gt_index = self.assign(images, [inputs["instances"].to(images.device)])
            rows = torch.nonzero(labels >= 0).squeeze(1)
            cells = self.make_cells(images)[rows]
            positives.append(Positives(cells, gt_index[rows], True, "the cells assigned to it"))
        return positives


def _tower(width: int, biases: Sequence[float], num_convs: int) -> nn.Sequential:
    """Stack 3x3 convolutions with group normalization, and a predictor with these biases."""
    layers: list[nn.Module] = []
    for _ in range(num_convs):
        layers += [nn.Conv2d(width, width, 3, padding=1, bias=False)]
        layers += [nn.GroupNorm(32, width), nn.ReLU(inplace=True)]
    predictor = nn.Conv2d(width, len(biases), 3, padding=1)
    nn.init.normal_(predictor.weight, std=0.01)
    predictor.bias = nn.Parameter(torch.tensor(biases))
    return nn.Sequential(*layers, predictor)


def _rows(maps: Tensor) -> Tensor:
    """Flatten maps (N, V, H, W) to (N H W, V): one row per cell, image by image."""
    return maps.permute(0, 2, 3, 1).flatten(0, 2)


def _resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Resize maps (N, V, h, w) to (N, V, *size)."""
    return functional.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)
