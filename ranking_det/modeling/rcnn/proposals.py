"""Match proposals to ground truth, sample them, and refine them between cascade stages.

Shapes:
    N: images
    R: proposals of all images together
    R_i: proposals of image i
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
    """Match proposals to ground-truth objects and sample the proposals to train on.

    Ground-truth boxes are appended after the matching, each as a match of its object. If they were
    matched with the proposals, every object would have a match of IoU 1, and there would be no
    low-quality matches.

    Args:
        proposals: one Instances per image, with the fields ``proposal_boxes`` and
            ``objectness_logits``.
        targets: one Instances per image, with the fields ``gt_boxes`` and ``gt_classes``.
        assigner: matches the proposals of one image at a time, as anchors of a single level.
        sampler: see :mod:`ranking_det.modeling.rcnn.sampling`; None for all proposals.
        append_gt: whether to append the ground-truth boxes to the proposals of each image.

    Returns:
        The sampled proposals of each image, R in total, and their assignment. The field
        ``is_object`` (R_i,) bool is True for appended ground-truth boxes.

    Raises:
        ValueError: ``append_gt`` is set, but some proposals have no ``objectness_logits``.
    """
    if append_gt and not all(image.has("objectness_logits") for image in proposals):
        raise ValueError("proposals: expected objectness_logits, which an RPN sets, got none")
    samples, labels, index, offset = [], [], [], 0
    for image, objects in zip(proposals, targets, strict=True):
        boxes, classes = image.proposal_boxes.tensor, objects.gt_classes
        valid = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
        label, gt_index = assigner([boxes], [objects.gt_boxes.tensor], [classes], valid, None)
        if append_gt:
            (image,) = add_ground_truth_to_proposals([objects], [image])
            label = torch.cat([label, classes])
            gt_index = torch.cat([gt_index, torch.arange(len(objects), device=boxes.device)])
        rows = torch.arange(len(label), device=boxes.device)
        is_ground_truth = rows >= len(boxes)
        if sampler is not None:
            rows = sampler(label)
        sample = image[rows]
        sample.is_object = is_ground_truth[rows]
        samples.append(sample)
        labels.append(label[rows])
        index.append(torch.where(gt_index >= 0, gt_index + offset, -1)[rows])
        offset += len(objects)
    return samples, Assignment(torch.cat(labels), torch.cat(index))


def refine_proposals(
    boxes: Sequence[Tensor], proposals: Sequence[Instances], *, training: bool
) -> list[Instances]:
    """Turn the predicted boxes of a cascade stage into the proposals of the next stage.

    Args:
        boxes: one tensor (R_i, 4) per image, predicted boxes, XYXY in pixels. Non-finite boxes
            become empty.
        proposals: one Instances per image, the proposals from which the boxes were predicted; in
            training with the field ``is_object``.
        training: True drops empty boxes and refined ground-truth boxes (the next stage appends the
            ground truth again). False keeps all, because inference needs the same proposals in
            every stage.

    Returns:
        One Instances per image, with the field ``proposal_boxes``, clipped to the image and without
        gradient, and ``objectness_logits`` if the given proposals have it.
    """
    refined = []
    for predicted, image in zip(boxes, proposals, strict=True):
        is_finite = predicted.detach().isfinite().all(dim=1, keepdim=True)
        clipped = Boxes(torch.where(is_finite, predicted.detach(), 0.0))
        clipped.clip(image.image_size)
        next_proposals = Instances(image.image_size, proposal_boxes=clipped)
        if image.has("objectness_logits"):
            next_proposals.objectness_logits = image.objectness_logits
        refined.append(
            next_proposals[clipped.nonempty() & ~image.is_object] if training else next_proposals
        )
    return refined
