"""Region proposal network (RPN) with any assigner and any criterion.

Shapes:
    N: images
    R_l: anchors of level l of one image
    R: anchors of all levels and images
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.proposal_generator import (
    PROPOSAL_GENERATOR_REGISTRY,
    RPN,
    RPN_HEAD_REGISTRY,
    StandardRPNHead,
)
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from ranking_det import assigners, criteria
from ranking_det.assigners import Assigner
from ranking_det.checks import check_at_least, check_integer
from ranking_det.criteria import CriterionBase
from ranking_det.labels import IGNORE
from ranking_det.layers import HardNMS
from ranking_det.modeling.anchor_candidates import AnchorCandidates
from ranking_det.modeling.feature_maps import MapPredictions, flatten_level
from ranking_det.modeling.initialization import prior_logit
from ranking_det.modeling.part_checks import check_rpn_parts
from ranking_det.modeling.postprocessing import RawDetections, postprocess
from ranking_det.modeling.rcnn import sampling
from ranking_det.modeling.step_metrics import log_metrics
from ranking_det.modeling.yaml_keys import build_node


@RPN_HEAD_REGISTRY.register()
class RankingRPNHead(StandardRPNHead):
    """Detectron2's RPN head with a prior for the initial scores, as in aLRP Loss.

    Rank & Sort Loss uses StandardRPNHead. Its scores start at .5.

    Args:
        prior_prob: initial score of every anchor, in (0, 1).
        arguments: the arguments of StandardRPNHead.

    Raises:
        ValueError: ``prior_prob`` is out of range.
    """

    @configurable
    def __init__(self, *, prior_prob: float = 0.01, **arguments: Any) -> None:
        super().__init__(**arguments)
        nn.init.constant_(self.objectness_logits.bias, prior_logit(prior_prob))


@PROPOSAL_GENERATOR_REGISTRY.register()
class RankingRPN(AnchorCandidates, nn.Module):
    """Region proposal network (Ren et al., NeurIPS 2015) trained on all anchors by any criterion.

    The head has the same name in the state dict as in Detectron2, so its checkpoints load.

    Args:
        in_features: names of the backbone's features, the finest first.
        head: ``(features) -> (logits, box outputs)`` per level, with one logit per anchor, such as
            Detectron2's StandardRPNHead.
        anchor_generator: Detectron2 anchor generator.
        box2box_transform: Detectron2 box coder.
        assigner: see :mod:`ranking_det.assigners`.
        criterion: see :mod:`ranking_det.criteria`; it gets candidates of a single class.
        pre_nms_topk: proposals per level before NMS, >= 1, in training and at inference.
        post_nms_topk: proposals per image after NMS, >= 1, in training and at inference.
        nms_thresh: IoU above which NMS drops the lower-scored proposal of a level, >= 0.
        min_box_size: drop proposals with a side of at most this many pixels, >= 0.
        sampler: see :mod:`ranking_det.modeling.rcnn.sampling`; None for all anchors, as in the
            ranking papers.
        boundary: ignore anchors that extend beyond the image by more than this many pixels, >= 0;
            None for no limit.
        loss_weight: factor of all losses, >= 0, applied after the balance; .2 in Rank & Sort and
            aLRP Loss.
        suppression: replaces NMS at ``nms_thresh``; see :mod:`ranking_det.layers.suppression`. It
            gets the level of a proposal as its class. Soft-NMS cannot be used, because the scores
            are logits.

    Raises:
        ValueError: an argument is out of range, or the parts do not fit together.
    """

    num_classes = 1

    @configurable
    def __init__(
        self,
        *,
        in_features: Sequence[str],
        head: nn.Module,
        anchor_generator: nn.Module,
        box2box_transform: Any,
        assigner: Assigner,
        criterion: CriterionBase,
        pre_nms_topk: Sequence[int] = (2000, 1000),
        post_nms_topk: Sequence[int] = (1000, 1000),
        nms_thresh: float = 0.7,
        min_box_size: float = 0.0,
        sampler: nn.Module | None = None,
        boundary: float | None = None,
        loss_weight: float = 0.2,
        suppression: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_at_least("loss_weight", loss_weight, 0.0)
        check_at_least("nms_thresh", nms_thresh, 0.0)
        if boundary is not None:
            check_at_least("boundary", boundary, 0.0)
        check_rpn_parts(assigner, criterion, head, anchor_generator, box2box_transform, in_features)
        self.in_features = list(in_features)
        self.rpn_head = head
        self.anchor_generator = anchor_generator
        self.box2box_transform = box2box_transform
        self.assigner = assigner
        self.criterion = criterion
        self.sampler = sampler
        self.strides = list(anchor_generator.strides)
        # Indexed by ``self.training``.
        self.pre_nms_topk = _by_mode("pre_nms_topk", pre_nms_topk)
        self.post_nms_topk = _by_mode("post_nms_topk", post_nms_topk)
        self.nms_thresh = nms_thresh
        self.min_box_size = min_box_size
        self.boundary = boundary
        self.loss_weight = loss_weight
        # Bit-identical to Detectron2's NMS: different proposals would change the results.
        self.suppression = suppression or HardNMS(nms_thresh, exact=False)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Translate a yaml config to the constructor's arguments.

        :func:`ranking_det.modeling.add_ranking_config` describes the keys.

        Args:
            cfg: a Detectron2 config with the project's keys.
            input_shape: the shapes of the backbone's features, by name.

        Returns:
            The arguments by name.

        Raises:
            UserError: a component cannot be built.
        """
        model, node = cfg.MODEL, cfg.MODEL.RPN
        built = RPN.from_config(cfg, input_shape)
        shared = ("in_features", "head", "anchor_generator", "box2box_transform", "min_box_size")
        shared += ("pre_nms_topk", "post_nms_topk", "nms_thresh")
        return {name: built[name] for name in shared} | {
            "assigner": build_node(cfg, "RPN_ASSIGNER", assigners),
            "criterion": build_node(cfg, "RPN_CRITERION", criteria),
            "sampler": build_node(cfg, "RPN_SAMPLER", sampling) if model.RPN_SAMPLER.NAME else None,
            "boundary": node.BOUNDARY_THRESH if node.BOUNDARY_THRESH >= 0 else None,
            "loss_weight": node.LOSS_WEIGHT,
        }

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        gt_instances: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Propose boxes, and in training compute the losses, as Detectron2's RPN does.

        Args:
            images: the N images.
            features: the features of the backbone, by name, each (N, C, H_l, W_l).
            gt_instances: one Instances per image, with ``gt_boxes`` and ``gt_classes``; needed in
                training.

        Returns:
            One Instances per image, with ``proposal_boxes`` and ``objectness_logits``, by
            descending score and without gradient; and the criterion's losses, ``loss_rpn_...``,
            which are empty at inference.

        Raises:
            ValueError: there are no ``gt_instances`` in training.
        """
        maps = [features[name] for name in self.in_features]
        predictions, anchors = MapPredictions(*self.rpn_head(maps)), self.make_anchors(maps)
        losses = {}
        if self.training:
            if gt_instances is None:
                raise ValueError("gt_instances: expected the objects of each image, got None")
            objects = as_one_class(gt_instances)
            logits, outputs, assignment = self.assign_all(images, anchors, predictions, objects)
            assignment = assignment._replace(labels=self._sample(assignment.labels, len(objects)))
            output = self.criterion(self.gather(anchors, objects, assignment, logits, outputs))
            log_metrics(output.metrics, "rpn/")
            losses = {
                name.replace("loss_", "loss_rpn_", 1): self.loss_weight * loss
                for name, loss in output.losses.items()
            }
        return self._propose(images, anchors, predictions), losses

    def valid_anchors(self, images: ImageList, maps: list[Tensor], anchors: list[Tensor]) -> Tensor:
        """Find the anchors to assign: outside the padding, and within ``boundary`` of the image.

        Args:
            images: the N images.
            maps: one tensor (N, C, H_l, W_l) per level, for the sizes of the levels.
            anchors: one tensor (R_l, 4) per level, XYXY in pixels, of one image.

        Returns:
            (R,) bool, False for anchors that are ignored.
        """
        valid = super().valid_anchors(images, maps, anchors)
        if self.boundary is None:
            return valid
        boxes = Boxes(torch.cat(anchors))
        inside = [boxes.inside_box(size, self.boundary) for size in images.image_sizes]
        return valid & torch.cat(inside)

    def _sample(self, labels: Tensor, num_images: int) -> Tensor:
        """Set the labels (R,) to IGNORE for anchors that are not in the sample."""
        if self.sampler is None:
            return labels
        sampled = torch.full_like(labels, IGNORE).view(num_images, -1)
        for image, sample in zip(labels.view(num_images, -1), sampled, strict=True):
            rows = self.sampler(image)
            sample[rows] = image[rows]
        return sampled.view(-1)

    @torch.no_grad()
    def _propose(
        self, images: ImageList, anchors: list[Tensor], predictions: MapPredictions
    ) -> list[Instances]:
        """Select proposals: top-k per level, NMS, top-k per image; their scores are logits."""
        levels, limit = [], self.pre_nms_topk[self.training]
        for i, cells in enumerate(anchors):
            outputs = flatten_level(predictions.outputs[i], 4).float()
            tiled = cells.repeat(len(outputs), 1)
            boxes = self.decode(outputs.flatten(0, 1), tiled).view_as(outputs)
            logits = flatten_level(predictions.logits[i], 1).squeeze(2).float()
            logits, order = (part[:, :limit] for part in logits.sort(descending=True, dim=1))
            boxes = boxes.take_along_dim(order[..., None], dim=1)
            levels.append((boxes, logits, torch.full_like(order, i)))
        fields = (torch.cat(parts, dim=1) for parts in zip(*levels, strict=True))
        proposals, limit = [], self.post_nms_topk[self.training]
        for size, *raw in zip(images.image_sizes, *fields, strict=True):
            # Non-finite boxes of a diverged model are dropped without an error, because its losses
            # are not finite either and the trainer reports them.
            best = postprocess(
                RawDetections(*raw), size, self.suppression, limit, min_side=self.min_box_size
            )
            proposals.append(
                Instances(size, proposal_boxes=Boxes(best.boxes), objectness_logits=best.scores)
            )
        return proposals


def _by_mode(name: str, numbers: Sequence[int]) -> dict[bool, int]:
    """Check two numbers, for training and inference, and map ``self.training`` to them."""
    if len(numbers) != 2:
        raise ValueError(f"{name}: expected two numbers, in training and inference, got {numbers}")
    for number in numbers:
        check_integer(name, number, 1)
    return {True: numbers[0], False: numbers[1]}


def as_one_class(gt_instances: list[Instances]) -> list[Instances]:
    """Relabel the objects of each image as class 0, keeping only their boxes.

    Args:
        gt_instances: one Instances per image, with ``gt_boxes`` and ``gt_classes``.

    Returns:
        New Instances with ``gt_boxes`` and ``gt_classes``.
    """
    return [
        Instances(objects.image_size, gt_boxes=objects.gt_boxes, gt_classes=0 * objects.gt_classes)
        for objects in gt_instances
    ]
