"""YOLACT: a dense detector with instance masks, which are combinations of prototypes.

Shapes: N images, A anchors per cell, R anchors of all images, P positives, K classes, C mask
coefficients of an anchor, and prototypes of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from ranking_det.checks import check_choice
from ranking_det.modeling.dense.retinanet import RankingRetinaNet
from ranking_det.modeling.feature_maps import MapPredictions, flatten_level, flatten_levels
from ranking_det.modeling.interface import DetectorInterface
from ranking_det.modeling.mask_targets import CONTINUOUS_LABELS, continuous_labels
from ranking_det.modeling.masks import prototype_masks, yolact_head
from ranking_det.modeling.masks.prototype_masks import PrototypeMasks, resize_masks
from ranking_det.modeling.masks.yolact_head import YOLACTHead
from ranking_det.modeling.part_checks import check_mask_parts
from ranking_det.modeling.step_metrics import log_metrics
from ranking_det.modeling.yaml_keys import build_node


@META_ARCH_REGISTRY.register()
class RankingYOLACT(RankingRetinaNet):
    """YOLACT (Bolya et al., ICCV 2019): RetinaNet with masks made of prototypes.

    Rank & Sort Loss (Oksuz et al., ICCV 2021) trains it with a box and a mask loss on the same
    positives. The original losses are cross entropy with hard negative mining, smooth L1, a mask
    cross entropy and semantic segmentation.

    Args:
        head: predicts classes, boxes and mask coefficients, such as :class:`YOLACTHead`.
        mask_branch: predicts the prototypes on the finest feature.
        continuous_label: the values by which the positives are ranked: "iou" of their boxes,
            "dice" of their masks, the "mean" of both, or "binary", 1 for all (table S6 of the
            supplement). Positives whose mask is not trained have the IoU of their boxes.
        arguments: the other arguments of :class:`RankingDenseDetector`. The criterion needs a mask
            loss.

    Raises:
        ValueError: the parts do not fit together.
    """

    learns_masks = True

    @configurable
    def __init__(
        self,
        *,
        head: YOLACTHead,
        mask_branch: PrototypeMasks,
        continuous_label: str = "iou",
        **arguments: Any,
    ) -> None:
        super().__init__(head=head, **arguments)
        check_choice("continuous_label", continuous_label, CONTINUOUS_LABELS)
        check_mask_parts(self.criterion, head.num_coefficients, mask_branch.num_prototypes)
        self.mask_branch = mask_branch
        self.continuous_label = continuous_label

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Translate a yaml config to the constructor's arguments; see the base class.

        Args:
            cfg: a Detectron2 config with the project's keys.

        Returns:
            The arguments by name.

        Raises:
            UserError: a component cannot be built.
        """
        arguments = super().from_config(cfg)
        arguments["mask_branch"] = build_node(
            cfg,
            "MASK_BRANCH",
            prototype_masks,
            in_channels=arguments["backbone"].output_shape()["p3"].channels,
            num_classes=cfg.MODEL.RETINANET.NUM_CLASSES,
        )
        arguments["continuous_label"] = cfg.MODEL.CONTINUOUS_LABEL
        return arguments

    @classmethod
    def head_from_config(cls, cfg: CfgNode, in_channels: int, num_anchors: int) -> nn.Module:
        """Build the head from a yaml config; see the base class."""
        head: nn.Module = build_node(
            cfg,
            "HEAD",
            yolact_head,
            in_channels=in_channels,
            num_classes=cfg.MODEL.RETINANET.NUM_CLASSES,
            num_anchors=num_anchors,
        )
        return head

    def augment_inference(
        self, *, min_sizes: Sequence[int], max_size: int, flip: bool
    ) -> nn.Module:
        """Raise a ValueError: the masks of several views cannot be merged before suppression."""
        return DetectorInterface.augment_inference(
            self, min_sizes=min_sizes, max_size=max_size, flip=flip
        )

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Compute the losses in training; detect objects with their masks at inference.

        Args:
            batched_inputs: one dict per image, in training with ``instances`` and their
                ``gt_masks``.

        Returns:
            In training, the losses by name; otherwise one dict per image with ``instances``, which
            have ``pred_masks`` (n, height, width).

        Raises:
            UserError: the class of an object is out of range.
            ValueError: there are objects, but no ``gt_masks``.
        """
        outputs = super().forward(batched_inputs)
        for output in [] if self.training else outputs:
            instances = output["instances"]
            instances.pred_masks = resize_masks(instances.mask_scores, instances.image_size)
            instances.remove("mask_scores")
        return outputs

    def forward_training(
        self,
        images: ImageList,
        features: list[Tensor],
        predictions: MapPredictions,
        gt_instances: list[Instances],
    ) -> dict[str, Tensor]:
        """Compute the losses; see the base class.

        Args:
            images: the N images.
            features: one tensor (N, channels, H_l, W_l) per level.
            predictions: the head's predictions, per level.
            gt_instances: one Instances per image, with ``gt_boxes``, ``gt_classes`` and
                ``gt_masks``.

        Returns:
            The losses by name, ``loss_...``, which the trainer adds up.

        Raises:
            ValueError: there are objects, but no ``gt_masks``.
        """
        anchors = self.make_anchors(features)
        logits, outputs, assignment = self.assign_all(images, anchors, predictions, gt_instances)
        candidates = self.gather(anchors, gt_instances, assignment, logits, outputs)
        rows, size = candidates.positives, tuple(images.tensor.shape[-2:])
        masks = self.mask_branch.make_targets(
            self.mask_branch(features[0]),
            flatten_levels(self._coefficients(predictions), self.mask_branch.num_prototypes)[rows],
            candidates.image[rows],
            assignment.gt_index[rows],
            gt_instances,
            size,
        )
        labels = continuous_labels(self.continuous_label, candidates.box_targets, masks)
        output = self.criterion(replace(candidates, masks=masks, continuous_labels=labels))
        log_metrics(output.metrics)
        losses = output.losses
        if self.mask_branch.semantic is not None:
            losses["loss_semantic"] = self.mask_branch.semantic_loss(
                features[0], gt_instances, size
            )
        return losses

    def forward_inference(
        self, images: ImageList, features: list[Tensor], predictions: MapPredictions
    ) -> list[Instances]:
        """Detect: decode boxes, select by score, apply NMS, combine the prototypes.

        Args:
            images: the N images.
            features: one tensor (N, channels, H_l, W_l) per level.
            predictions: the head's predictions, per level.

        Returns:
            One Instances per image, with ``pred_boxes``, ``scores`` and ``pred_classes`` in input
            coordinates, and ``mask_scores`` (n, h', w'), the probabilities of its masks.
        """
        prototypes = self.mask_branch(features[0])
        levels = self._coefficients(predictions)
        rows = [flatten_level(level, self.mask_branch.num_prototypes) for level in levels]
        coefficients = torch.cat(rows, dim=1)
        padded_size, results = tuple(images.tensor.shape[-2:]), []
        for i, raw in enumerate(self._propose(features, predictions)):
            size = tuple(images.image_sizes[i])
            best = self.inference.select_best(raw, size)
            detections = best.to_instances(size)
            detections.mask_scores = self.mask_branch.predict(
                prototypes[i], coefficients[i][best.rows], best.boxes, padded_size, size
            )
            results.append(detections)
        return results

    @staticmethod
    def _coefficients(predictions: MapPredictions) -> list[Tensor]:
        if predictions.coefficients is None:
            raise ValueError("head: expected one that predicts mask coefficients, got none")
        return predictions.coefficients
