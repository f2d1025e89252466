"""SOLOv2: instance segmentation without boxes; each cell of a grid predicts a class and a mask.

Shapes in these files:

    N: images of the batch, padded to the same size
    R: rows, the cells of all images and levels; image-major, then level, then row of the grid
    K: classes of objects; there is no class for background
    P: positives, the rows whose label is a class
    Q: masks to train; usually one per positive
    G: ground-truth objects of all images
    E: channels of the mask features of h x w pixels, one pixel per 4 x 4 of the image

Names:

    logits: (R, K) raw class scores; the score of a class is sigmoid(logit)
    kernels: (R, E), the weights with which the mask features give the mask of a cell
    cells: one tensor (S^2, 4) per level, XYXY in pixels of the padded images, for the assigner
    assignment: labels (R,), a class in [0, K), or BACKGROUND; and gt_index (R,), the object of a
        positive among the G
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.structures import BitMasks, ImageList, Instances
from torch import Tensor, nn

from ranking_det import assigners, criteria
from ranking_det.assigners import Assigner, CenterRegion
from ranking_det.checks import check_integer
from ranking_det.criteria import Candidates, CriterionBase, MaskTargets
from ranking_det.criteria.candidates import mean_of_positives
from ranking_det.modeling.feature_maps import PAD, flatten_levels, image_and_level, resize
from ranking_det.modeling.input_checks import check_objects
from ranking_det.modeling.interface import DetectorInterface, Positives
from ranking_det.modeling.mask_targets import draw_bitmaps, sample_masks
from ranking_det.modeling.masks import solov2_head, solov2_inference
from ranking_det.modeling.masks.solov2_head import GridPredictions, SOLOv2Head
from ranking_det.modeling.masks.solov2_inference import SOLOv2Inference, draw_masks
from ranking_det.modeling.masks.solov2_targets import center_boxes, shrink_masks
from ranking_det.modeling.part_checks import check_grid_parts, check_num_classes
from ranking_det.modeling.step_metrics import log_metrics
from ranking_det.modeling.yaml_keys import build_node
from ranking_det.row_blocks import blocks


@META_ARCH_REGISTRY.register()
class RankingSOLOv2(DetectorInterface, nn.Module):
    """SOLOv2 (Wang et al., NeurIPS 2020) with any criterion on masks.

    Boxes are those of the masks. With Rank & Sort Loss (Oksuz et al., ICCV 2021), the positives are
    sorted by the Dice coefficients of their masks. Unlike in the authors' code, which pairs labels
    in the order of the cells with Dice coefficients in the order of the objects, each positive has
    the coefficient of its own mask.

    As in the authors' code, the grids cover the padded images, and cells in the padding are
    negatives. An object whose mask is empty, or vanishes at a quarter of the size, trains the
    scores of its cells but no mask. Its positives have a Dice coefficient of 0.

    Args:
        backbone: Detectron2 backbone. Its strides are a power of two, and the finest one is 4.
        head: :class:`SOLOv2Head`.
        in_features: names of the backbone's features, the finest first, one for each grid.
        assigner: see :mod:`ranking_det.assigners`; the anchors are the cells, and the boxes of the
            objects are moved to the centers of mass of their masks. SOLO's assigner is
            :class:`ranking_det.assigners.CenterRegion`.
        criterion: see :mod:`ranking_det.criteria`; its localization tasks are on masks.
        num_classes: K, >= 1.
        inference: post-processing; None for :class:`SOLOv2Inference` with its defaults.
        max_masks: masks to train per image, >= 1, which bounds the memory of the step; chosen at
            random if there are more. The other positives still have the Dice coefficients of their
            masks. None for all, as published.
        pixel_mean: mean of the pixels per channel, in the order of the input format, in [0, 255].
        pixel_std: standard deviation of the pixels per channel, > 0.
        input_format: order of the channels that the data loader gives, "RGB" or "BGR".

    Raises:
        ValueError: an argument is out of range, or the parts do not fit together.
    """

    num_classes: int
    learns_masks = True
    positives_need_images = False  # only their sizes
    num_classes_key = "MODEL.RETINANET.NUM_CLASSES"  # Detectron2 has no config node for SOLOv2

    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        head: SOLOv2Head,
        in_features: Sequence[str] = ("p2", "p3", "p4", "p5", "p6"),
        assigner: Assigner,
        criterion: CriterionBase,
        num_classes: int,
        inference: SOLOv2Inference | None = None,
        max_masks: int | None = None,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str = "BGR",
    ) -> None:
        super().__init__()
        if max_masks is not None:
            check_integer("max_masks", max_masks, 1)
        self.backbone = backbone
        self.head = head
        self.in_features = list(in_features)
        self.assigner = assigner
        self.criterion = criterion
        self.num_classes = num_classes
        self.inference = inference or SOLOv2Inference()
        self.max_masks = max_masks
        self.input_format = input_format
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)
        shapes = backbone.output_shape()
        strides = [shapes[name].stride for name in self.in_features]
        check_grid_parts(assigner, criterion, head.grids, strides)
        check_num_classes("head", head.num_classes, num_classes)
        # Those of the features from which the grids are made: the finest feature is halved, and the
        # coarsest one is enlarged.
        self.strides = [2 * strides[0], *strides[1:-1], strides[-2]]

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Translate a yaml config to the constructor's arguments.

        :func:`ranking_det.modeling.add_ranking_config` describes the keys.

        Args:
            cfg: a Detectron2 config with the project's keys.

        Returns:
            The arguments by name.

        Raises:
            UserError: a component cannot be built.
        """
        node, backbone = cfg.MODEL.RETINANET, build_backbone(cfg)
        return {
            "backbone": backbone,
            "head": build_node(
                cfg,
                "HEAD",
                solov2_head,
                in_channels=backbone.output_shape()[node.IN_FEATURES[0]].channels,
                num_classes=node.NUM_CLASSES,
                num_convs=node.NUM_CONVS,
                prior_prob=node.PRIOR_PROB,
            ),
            "in_features": node.IN_FEATURES,
            "assigner": build_node(cfg, "ASSIGNER", assigners),
            "criterion": build_node(cfg, "CRITERION", criteria),
            "num_classes": node.NUM_CLASSES,
            "inference": build_node(
                cfg,
                "INFERENCE",
                solov2_inference,
                score_thresh=node.SCORE_THRESH_TEST,
                max_detections=cfg.TEST.DETECTIONS_PER_IMAGE,
            ),
            "max_masks": cfg.MODEL.MAX_MASKS_PER_IMAGE or None,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "input_format": cfg.INPUT.FORMAT,
        }

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Compute the losses in training; detect objects at inference.

        Args:
            batched_inputs: one dict per image with ``image`` (3, height, width); in training with
                ``instances``, which have ``gt_boxes``, ``gt_classes`` and ``gt_masks``. At
                inference it may have ``height`` and ``width``, the image size of the detections.

        Returns:
            In training, the losses by name; otherwise one dict per image with ``instances``, which
            have ``pred_boxes``, ``pred_masks`` (k, height, width) bool, ``scores`` and
            ``pred_classes``.

        Raises:
            UserError: the class of an object is out of range.
            ValueError: there are objects without ``gt_masks``.
        """
        if self.training:
            check_objects(batched_inputs, self.num_classes)
        images = self.preprocess(batched_inputs)
        features = self.backbone(images.tensor)
        predictions = self.head([features[name] for name in self.in_features])
        if self.training:
            objects = [inputs["instances"].to(images.device) for inputs in batched_inputs]
            return self.losses(images, predictions, objects)
        return [
            {"instances": self.detect(images, predictions, i, inputs)}
            for i, inputs in enumerate(batched_inputs)
        ]

    def preprocess(self, batched_inputs: Sequence[dict[str, Any]]) -> ImageList:
        """Normalize the images, and pad them to one size, a multiple of 32.

        Args:
            batched_inputs: one dict per image with ``image`` (3, height, width).

        Returns:
            The images.
        """
        images = [inputs["image"].to(self.pixel_mean.device) for inputs in batched_inputs]
        images = [(image - self.pixel_mean) / self.pixel_std for image in images]
        return ImageList.from_tensors(images, max(PAD, self.backbone.size_divisibility))

    def make_cells(self, images: ImageList) -> list[Tensor]:
        """Make the cells of one image; all images share them.

        Args:
            images: the N images.

        Returns:
            One tensor (S^2, 4) per level, XYXY in pixels of the padded images, row by row.
        """
        height, width = images.tensor.shape[-2:]
        levels = []
        for size in self.head.grids:
            x, y = (
                torch.arange(size + 1, device=images.device) * side / size
                for side in (width, height)
            )
            y1, x1 = torch.cartesian_prod(y[:-1], x[:-1]).unbind(1)
            y2, x2 = torch.cartesian_prod(y[1:], x[1:]).unbind(1)
            levels.append(torch.stack([x1, y1, x2, y2], dim=1))
        return levels

    def match(
        self, cells: Sequence[Tensor], boxes: Sequence[Tensor], objects: Sequence[Instances]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Assign the cells to objects.

        Args:
            cells: the cells of one image; see :meth:`make_cells`.
            boxes: for each image (G_i, 4) XYXY, with their centers at the objects' centers of mass.
            objects: one Instances per image, with ``gt_classes``.

        Returns:
            The labels (R,) int64; and for each mask to train, the row (n,) of its cell, ascending,
            and its object (n,) among the G, both int64.
        """
        classes = [instances.gt_classes for instances in objects]
        # Cells in the padding are negatives, as published.
        count = len(objects) * sum(map(len, cells))
        valid = torch.ones(count, dtype=torch.bool, device=cells[0].device)
        labels, gt_index = self.assigner(cells, boxes, classes, valid, None)
        if isinstance(self.assigner, CenterRegion) and self.assigner.shared:
            rows, gt_index = self.assigner.all_claims(cells, boxes).unbind(dim=1)
            return labels, rows, gt_index
        rows = torch.nonzero(labels >= 0).squeeze(1)
        return labels, rows, gt_index[rows]

    def losses(
        self, images: ImageList, predictions: GridPredictions, objects: Sequence[Instances]
    ) -> dict[str, Tensor]:
        """Compute the losses: assign the cells, gather the candidates, call the criterion.

        Args:
            images: the N images.
            predictions: the head's predictions.
            objects: one Instances per image.

        Returns:
            The losses by name, ``loss_...``, which the trainer adds up.
        """
        bitmaps = [draw_bitmaps(instances, images.device) for instances in objects]
        boxes = [
            center_boxes(instances.gt_boxes.tensor, masks)
            for instances, masks in zip(objects, bitmaps, strict=True)
        ]
        cells = self.make_cells(images)
        labels, rows, gt_index = self.match(cells, boxes, objects)
        positives = torch.nonzero(labels >= 0).squeeze(1)
        size = predictions.mask_features.shape[-2:]
        targets = torch.cat([shrink_masks(masks, tuple(size)) for masks in bitmaps])
        has_mask = targets.flatten(1).any(dim=1)[gt_index]
        rows, gt_index = rows[has_mask], gt_index[has_mask]
        image, level = image_and_level(len(images), [len(grid) for grid in cells], images.device)
        counts = image[rows].bincount(minlength=len(images)).tolist()
        index = torch.searchsorted(positives, rows)
        masks, dice = self._gather_masks(predictions, rows, index, targets, gt_index, counts)
        candidates = Candidates(
            logits=flatten_levels(predictions.logits, self.num_classes),
            labels=labels,
            positives=positives,
            image=image,
            level=level,
            num_images=len(images),
            masks=masks,
            # With a limit, those of the positives whose masks are not trained, too.
            continuous_labels=None
            if dice is None
            else mean_of_positives(dice, index, len(positives)),
        )
        output = self.criterion(candidates)
        log_metrics(output.metrics)
        return output.losses

    def _gather_masks(
        self,
        predictions: GridPredictions,
        rows: Tensor,
        index: Tensor,
        targets: Tensor,
        gt_index: Tensor,
        counts: list[int],
    ) -> tuple[MaskTargets, Tensor | None]:
        """Draw the masks to train, at most ``max_masks`` per image.

        Args:
            predictions: the head's predictions.
            rows: (n,) int64, the row of each mask, ascending.
            index: (n,) int64, the positive of each mask.
            targets: (G, h, w) bool, the masks of the objects.
            gt_index: (n,) int64, the object of each mask.
            counts: the masks of each image, n in total.

        Returns:
            The masks to train. If the limit leaves some out, also the Dice coefficients of all n.
        """
        kernels = flatten_levels(predictions.kernels, self.head.kernel_channels)
        features, dice = predictions.mask_features, None
        if self.max_masks is not None and max(counts) > self.max_masks:
            with torch.no_grad():
                dice = _dice(kernels[rows], features, targets, gt_index, counts)
            parts = [
                sample_masks(part, self.max_masks) for part in torch.arange(len(rows)).split(counts)
            ]
            counts = [len(part) for part in parts]
            choice = torch.cat(parts).to(rows.device)
            rows, index, gt_index = rows[choice], index[choice], gt_index[choice]
        # Image by image, because each image has its own features.
        logits = torch.cat(
            [
                draw_masks(kernels[part], image_features)
                for part, image_features in zip(rows.split(counts), features, strict=True)
            ]
        )
        return MaskTargets(logits=logits, masks=targets[gt_index], index=index), dice

    def detect(
        self, images: ImageList, predictions: GridPredictions, i: int, inputs: dict[str, Any]
    ) -> Instances:
        """Detect the objects of one image.

        Args:
            images: the N images.
            predictions: the head's predictions.
            i: the image.
            inputs: its input, which may have the ``height`` and ``width`` of the result.

        Returns:
            The detections, by descending score, at the size in ``inputs``; without those whose
            masks vanish when they are resized.
        """
        sizes = torch.tensor([size**2 for size in self.head.grids], device=images.device)
        strides = torch.tensor(self.strides, device=images.device).repeat_interleave(sizes)
        detections = self.inference(
            [level[i] for level in predictions.logits],
            [level[i] for level in predictions.kernels],
            predictions.mask_features[i],
            strides,
        )
        height, width = images.image_sizes[i]
        size = inputs.get("height", height), inputs.get("width", width)
        padded = images.tensor.shape[-2:]
        masks = [torch.zeros(0, *size, dtype=torch.bool, device=images.device)]
        for block in blocks(len(detections.masks), padded.numel() + size[0] * size[1]):
            # To the size of the padded images first, to cut off the padding.
            full = resize(detections.masks[block][None], padded)[..., :height, :width]
            masks.append(resize(full, size)[0] > self.inference.mask_thresh)
        bitmaps = BitMasks(torch.cat(masks))
        instances = Instances(
            size,
            pred_boxes=bitmaps.get_bounding_boxes().to(images.device),
            pred_masks=bitmaps.tensor,
            scores=detections.scores,
            pred_classes=detections.classes,
        )
        return instances[instances.pred_boxes.nonempty()]

    @torch.no_grad()
    def find_positives(self, batched_inputs: Sequence[dict[str, Any]]) -> list[Positives]:
        """Find the positive cells of each image; see :class:`DetectorInterface`.

        Without ``gt_masks``, the centers of the boxes replace the centers of mass.
        """
        images = self.preprocess(batched_inputs)
        objects = [inputs["instances"].to(images.device) for inputs in batched_inputs]
        boxes = [
            center_boxes(instances.gt_boxes.tensor, draw_bitmaps(instances, images.device))
            if instances.has("gt_masks")
            else instances.gt_boxes.tensor
            for instances in objects
        ]
        cells = self.make_cells(images)
        _, rows, gt_index = self.match(cells, boxes, objects)
        cells_of_image, positives, offset = torch.cat(cells), [], 0
        for i, instances in enumerate(objects):
            in_image = rows // len(cells_of_image) == i
            cells_of_objects = cells_of_image[rows[in_image] % len(cells_of_image)]
            index = gt_index[in_image] - offset
            positives.append(Positives(cells_of_objects, index, False, "the cells assigned to it"))
            offset += len(instances)
        return positives


def _dice(
    kernels: Tensor, features: Tensor, targets: Tensor, gt_index: Tensor, counts: list[int]
) -> Tensor:
    """Compute the Dice coefficients (n,) of masks, in blocks, because there may be many."""
    coefficients, first = [], 0
    for image_features, count in zip(features, counts, strict=True):
        for block in blocks(count, image_features[0].numel()):
            part = slice(first + block.start, first + block.stop)
            logits = draw_masks(kernels[part], image_features)
            masks = MaskTargets(logits, targets[gt_index[part]], gt_index[part])
            coefficients.append(masks.overlap())
        first += count
    return torch.cat(coefficients)
