"""Which anchors are to find which object: what a preview shows.

Shapes: P_i positives of image i.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.modeling.meta_arch import GeneralizedRCNN
from torch import Tensor, nn

from ranking_det.modeling.anchor_matching import AnchorMatching, as_one_class
from ranking_det.modeling.dense.detector import RankingDenseDetector
from ranking_det.modeling.rcnn.rpn import RankingRPN

__all__ = ["find_positives", "tells_positives"]


def tells_positives(model: nn.Module) -> bool:
    """Whether :func:`find_positives` knows the model."""
    return _parts(model) is not None


@torch.no_grad()
def find_positives(
    model: nn.Module, batched_inputs: Sequence[dict[str, Any]]
) -> list[tuple[Tensor, Tensor]]:
    """What the assigner picks, as in a training step on these images; nothing is changed.

    Of an R-CNN it is what the region proposal network's assigner picks. The model runs in the mode
    in which it is, but running statistics stay as they are.

    Args:
        model: a dense detector of this package, or Detectron2's R-CNN with a :class:`RankingRPN`.
        batched_inputs: as for training, with ``instances``.

    Returns:
        Per image the anchors (P_i, 4) of its positives, XYXY in pixels of the input, and which of
        the image's instances each is to find, (P_i,) int64.

    Raises:
        ValueError: another model.
    """
    parts = _parts(model)
    if parts is None:
        raise ValueError(
            "model: expected a dense detector of ranking_det, or a GeneralizedRCNN with a "
            f"RankingRPN, got {type(model).__name__}"
        )
    matching, head, names = parts
    images = model.preprocess_image(batched_inputs)
    pyramid = _without_memory(model.backbone, images.tensor)
    features = [pyramid[name] for name in names]
    predictions = _without_memory(head, features)
    gt_instances = [inputs["instances"].to(model.device) for inputs in batched_inputs]
    objects = as_one_class(gt_instances) if isinstance(matching, RankingRPN) else gt_instances
    levels = matching.make_anchors(features)
    _, _, assignment = matching.assign_all(images, features, levels, predictions, objects)
    anchors, (labels, gt_index) = torch.cat(levels), assignment
    found, first = [], 0
    for i, instances in enumerate(gt_instances):
        own = slice(i * len(anchors), (i + 1) * len(anchors))
        rows = torch.nonzero(labels[own] >= 0).squeeze(1)
        found.append((anchors[rows], gt_index[own][rows] - first))
        first += len(instances)
    return found


def _parts(model: nn.Module) -> tuple[AnchorMatching, nn.Module, list[str]] | None:
    """What assigns, its head, and the names of its features."""
    if isinstance(model, RankingDenseDetector):
        return model, model.head, model.head_in_features
    generator = getattr(model, "proposal_generator", None)
    if isinstance(model, GeneralizedRCNN) and isinstance(generator, RankingRPN):
        return generator, generator.rpn_head, generator.in_features
    return None


def _without_memory(module: nn.Module, inputs: Any) -> Any:
    """Call a module so that what it remembers, such as running statistics, stays as it is."""
    copies = {name: buffer.clone() for name, buffer in module.named_buffers()}
    return torch.func.functional_call(module, copies, (inputs,))
