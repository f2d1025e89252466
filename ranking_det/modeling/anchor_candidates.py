"""Anchor matching and the criterion's candidates, for dense detectors and the RPN.

Shapes:
    N: images
    R_l: anchors of level l of one image
    R: anchors of all levels and images
    K: classes
    P: positives
    G: ground-truth boxes of all images
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from ranking_det.assigners import Assigner, Assignment, Predictions
from ranking_det.criteria import BoxTargets, Candidates
from ranking_det.modeling.feature_maps import (
    MapPredictions,
    flatten_levels,
    image_and_level,
    valid_cells,
)
from ranking_det.modeling.interface import Positives


class AnchorCandidates:
    """Mixin for modules that predict on anchors: anchor generation, assignment, candidates.

    Attributes:
        anchor_generator: Detectron2 anchor generator.
        box2box_transform: Detectron2 box coder.
        assigner: see :mod:`ranking_det.assigners`.
        criterion: see :mod:`ranking_det.criteria`.
        num_classes: K.
        strides: the stride of each level, in pixels per cell.
    """

    @property
    def positives_need_images(self) -> bool:
        """Whether the positives depend on predictions, not only on anchors and ground truth."""
        # A custom assigner need not derive from the base class.
        return isinstance(self.assigner, Assigner) and self.assigner.needs_predictions

    def make_anchors(self, features: list[Tensor]) -> list[Tensor]:
        """Generate the anchors of one image; all images share them.

        Args:
            features: one tensor (N, C, H_l, W_l) per level.

        Returns:
            One tensor (R_l, 4) per level, XYXY in pixels.
        """
        return [boxes.tensor for boxes in self.anchor_generator(features)]

    def assign_all(
        self,
        images: ImageList,
        anchors: list[Tensor],
        predictions: MapPredictions,
        gt_instances: list[Instances],
    ) -> tuple[Tensor, Tensor, Assignment]:
        """Assign anchors to ground-truth objects and flatten the predictions.

        Args:
            images: the N images.
            anchors: one tensor (R_l, 4) per level, XYXY in pixels, of one image.
            predictions: the head's predictions, per level.
            gt_instances: one Instances per image, with ``gt_boxes`` and ``gt_classes``.

        Returns:
            Logits (R, K), raw box outputs (R, 4) in float32, and the assignment of the R anchors.
        """
        logits = flatten_levels(predictions.logits, self.num_classes)
        outputs = flatten_levels(predictions.outputs, 4).float()
        detached = None
        if self.positives_need_images:
            with torch.no_grad():
                boxes = self.decode(outputs, torch.cat(anchors).repeat(len(gt_instances), 1))
            detached = Predictions(logits.detach(), boxes)
        gt_boxes = [instances.gt_boxes.tensor for instances in gt_instances]
        gt_classes = [instances.gt_classes for instances in gt_instances]
        valid = self.valid_anchors(images, predictions.logits, anchors)
        return logits, outputs, self.assigner(anchors, gt_boxes, gt_classes, valid, detached)

    def valid_anchors(self, images: ImageList, maps: list[Tensor], anchors: list[Tensor]) -> Tensor:
        """Find the anchors to assign: those outside the padding of the batch.

        Args:
            images: the N images.
            maps: one tensor (N, C, H_l, W_l) per level, for the sizes of the levels.
            anchors: one tensor (R_l, 4) per level, XYXY in pixels, of one image.

        Returns:
            (R,) bool, False for anchors that are ignored.
        """
        grids = [level.shape[-2:] for level in maps]
        counts = self.anchor_generator.num_anchors
        return valid_cells(images.image_sizes, grids, self.strides, counts, anchors[0].device)

    @torch.no_grad()
    def pick_positives(
        self,
        backbone: nn.Module,
        head: nn.Module,
        in_features: Sequence[str],
        images: ImageList,
        gt_instances: list[Instances],
    ) -> list[Positives]:
        """Find the positive anchors of each image, as in a training step, without side effects.

        The modules run in their current mode, but running statistics do not change. If the assigner
        needs only the sizes of the feature maps, the modules run on torch's meta device, which
        computes nothing. If a layer does not support the meta device, they run as usual.

        Args:
            backbone: computes the features of the images.
            head: predicts on the features.
            in_features: names of the features for the head.
            images: the N images.
            gt_instances: one Instances per image, with ``gt_boxes`` and ``gt_classes``.

        Returns:
            For each image, the anchors of its positives and the object that each is matched to.
        """
        run = partial(_run_on_copies, backbone, head, in_features, images.tensor)
        try:
            on_meta = not self.positives_need_images
            features, predictions = run(torch.device("meta") if on_meta else images.tensor.device)
        except Exception:
            # A layer needs actual values, or autocast does not support the meta device.
            features, predictions = run(images.tensor.device)
        levels = self.make_anchors(features)
        _, _, (labels, gt_index) = self.assign_all(images, levels, predictions, gt_instances)
        anchors, positives, offset = torch.cat(levels), [], 0
        by_image = labels.split(len(anchors)), gt_index.split(len(anchors)), gt_instances
        for label, index, objects in zip(*by_image, strict=True):
            rows = torch.nonzero(label >= 0).squeeze(1)
            positives.append(Positives(anchors[rows], index[rows] - offset))
            offset += len(objects)
        return positives

    def gather(
        self,
        anchors: list[Tensor],
        gt_instances: list[Instances],
        assignment: Assignment,
        logits: Tensor,
        outputs: Tensor,
        branch: Tensor | None = None,
    ) -> Candidates:
        """Build the criterion's candidates: logits and labels of all rows, boxes of the positives.

        Args:
            anchors: one tensor (R_l, 4) per level, XYXY in pixels, of one image.
            gt_instances: one Instances per image, with ``gt_boxes``.
            assignment: the assignment of the R anchors.
            logits: (R, K).
            outputs: (R, 4) raw box outputs.
            branch: (R,) logits of an IoU or centerness branch; None without a branch.

        Returns:
            The R candidates, with box targets of the P positives.
        """
        rows = torch.nonzero(assignment.labels >= 0).squeeze(1)
        sizes = [len(level_anchors) for level_anchors in anchors]
        positive_anchors = torch.cat(anchors)[rows % sum(sizes)]
        gt_boxes = torch.cat([instances.gt_boxes.tensor for instances in gt_instances])
        gt_boxes = gt_boxes[assignment.gt_index[rows]]
        # Indexed only once: a balance by gradients needs the gradient with respect to this tensor.
        positive_outputs = outputs[rows]
        boxes = self.decode(positive_outputs, positive_anchors)
        image, level = image_and_level(len(gt_instances), sizes, logits.device)
        return Candidates(
            logits=logits,
            labels=assignment.labels,
            positives=rows,
            image=image,
            level=level,
            num_images=len(gt_instances),
            branch_logits=branch,
            boxes=BoxTargets(positive_outputs, boxes, positive_anchors, gt_boxes),
        )

    def decode(self, outputs: Tensor, anchors: Tensor) -> Tensor:
        """Decode raw box outputs.

        Args:
            outputs: (n, 4), as the box coder encodes boxes relative to anchors.
            anchors: (n, 4) XYXY in pixels.

        Returns:
            (n, 4) XYXY in pixels.
        """
        return self.box2box_transform.apply_deltas(outputs, anchors)


def _run_on_copies(
    backbone: nn.Module,
    head: nn.Module,
    in_features: Sequence[str],
    pixels: Tensor,
    device: torch.device,
) -> tuple[list[Tensor], MapPredictions]:
    """Compute features and predictions with copies of all buffers, to keep running statistics."""
    pyramid = _call_on_copies(backbone, pixels.to(device), device)
    features = [pyramid[name] for name in in_features]
    return features, MapPredictions(*_call_on_copies(head, features, device))


def _call_on_copies(module: nn.Module, inputs: Any, device: torch.device) -> Any:
    tensors = {name: buffer.to(device, copy=True) for name, buffer in module.named_buffers()}
    tensors |= {name: parameter.to(device) for name, parameter in module.named_parameters()}
    return torch.func.functional_call(module, tensors, (inputs,))
