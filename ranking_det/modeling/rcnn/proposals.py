"""Matching and sampling of proposals, and the refined proposals of a cascade.

Shapes: N images, R proposals of all images, R_i of image i.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.modeling.proposal_generator.proposal_utils import add_ground_truth_to_proposals
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from ranking_det.assigners import Assigner, Assignment


@torch.no_grad()
def match_proposals(
    proposals: Sequence[Instances],
    targets: Sequence[Instances],
    assigner: Assigner,
    sampler: nn.Module | None = None,
    append_gt: bool = True,
) -> tuple[list[Instances], Assignment]:
    """Match proposals to ground-truth objects and sample those that are trained on.

    Ground-truth boxes are appended after the matching, each matched to its own object. Otherwise
    they would be the best match of every object, and there would be no low-quality matches.

    Args:
        proposals: per image ``proposal_boxes`` and ``objectness_logits``.
        targets: per image ``gt_boxes`` and ``gt_classes``.
        assigner: matches the proposals of one image at a time, as anchors of a single level.
        sampler: see :mod:`ranking_det.modeling.rcnn.sampling`; None for all proposals.
        append_gt: whether ground-truth boxes are proposals too, after the others.

    Returns:
        The R sampled proposals by image, with ``is_object`` (R_i,) bool for ground-truth boxes, and
        their assignment.

    Raises:
        ValueError: ``append_gt`` with proposals that have no ``objectness_logits``.
    """
    if append_gt and not all(image.has("objectness_logits") for image in proposals):
        raise ValueError("proposals: expected objectness_logits, as an RPN gives them, got none")
    samples, labels, index, first = [], [], [], 0
    for image, objects in zip(proposals, targets, strict=True):
        boxes, classes = image.proposal_boxes.tensor, objects.gt_classes
        valid = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
        label, number = assigner([boxes], [objects.gt_boxes.tensor], [classes], valid, None)
        if append_gt:
            (image,) = add_ground_truth_to_proposals([objects], [image])
            label = torch.cat([label, classes])
            number = torch.cat([number, torch.arange(len(objects), device=boxes.device)])
        rows = torch.arange(len(label), device=boxes.device)
        is_object = rows >= len(boxes)
        if sampler is not None:
            rows = sampler(label)
        sample = image[rows]
        sample.is_object = is_object[rows]
        samples.append(sample)
        labels.append(label[rows])
        index.append(torch.where(number >= 0, number + first, -1)[rows])
        first += len(objects)
    return samples, Assignment(torch.cat(labels), torch.cat(index))


def refine_proposals(
    boxes: Sequence[Tensor], proposals: Sequence[Instances], *, training: bool
) -> list[Instances]:
    """Make the proposals of a cascade's next stage from the boxes that the last stage predicts.

    Args:
        boxes: per image (R_i, 4) XYXY in pixels, predicted; non-finite boxes become empty.
        proposals: per image the proposals from which the boxes were predicted, in training with
            ``is_object``.
        training: whether to drop empty boxes, and the refined ground-truth boxes, as the next stage
            appends the ground truth again. At inference all stages need the same proposals.

    Returns:
        Per image ``proposal_boxes``, clipped to the image and without gradient, and
        ``objectness_logits`` if there are any.
    """
    refined = []
    for predicted, image in zip(boxes, proposals, strict=True):
        usable = predicted.detach().isfinite().all(dim=1, keepdim=True)
        clipped = Boxes(torch.where(usable, predicted.detach(), 0.0))
        clipped.clip(image.image_size)
        following = Instances(image.image_size, proposal_boxes=clipped)
        if image.has("objectness_logits"):
            following.objectness_logits = image.objectness_logits
        refined.append(following[clipped.nonempty() & ~image.is_object] if training else following)
    return refined
