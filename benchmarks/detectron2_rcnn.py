"""Replace an R-CNN config's RPN and RoI heads by Detectron2's, as a cross-entropy baseline."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from detectron2.config import LazyCall as L
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import FastRCNNOutputLayers, StandardROIHeads

ALL = 10**6
"""A sample size that keeps all anchors or proposals."""

RPN_PARTS = ("in_features", "head", "anchor_generator", "box2box_transform")
RPN_TOPK = ("pre_nms_topk", "post_nms_topk")
RANKING_ONLY = ("_target_", "assigner", "criterion", "max_mask_rois", "sampler")


def detectron2_rcnn(model: Any) -> Any:
    """Return the config of the same Faster or Mask R-CNN with Detectron2's RPN and RoI heads.

    The sampler sizes are kept. Without a sampler, all anchors and all proposals are used.

    Args:
        model: model node from ``configs/common/models/rcnn.py``, with cross entropy.
    """
    rpn, heads = model.proposal_generator, model.roi_heads
    baseline = deepcopy(model)
    baseline.proposal_generator = L(RPN)(
        **{name: rpn[name] for name in (*RPN_PARTS, *RPN_TOPK)},
        anchor_matcher=L(Matcher)(
            thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True
        ),
        **_sampling_arguments(rpn),
    )
    baseline.roi_heads = L(StandardROIHeads)(
        **{name: heads[name] for name in heads if name not in RANKING_ONLY},
        proposal_matcher=L(Matcher)(thresholds=[0.5], labels=[0, 1]),
        **_sampling_arguments(heads),
    )
    predictor = baseline.roi_heads.box_predictor
    predictor._target_ = FastRCNNOutputLayers
    del predictor.softmax
    return baseline


def _sampling_arguments(module: Any) -> dict[str, Any]:
    sampler = module.get("sampler")
    if sampler is None:
        return {"batch_size_per_image": ALL, "positive_fraction": 1.0}
    return {
        "batch_size_per_image": sampler.size,
        "positive_fraction": sampler.positive_fraction,
    }
