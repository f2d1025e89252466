"""Inference of dense detectors: score threshold, top-k, NMS, Soft-NMS and score voting.

Shapes: R_l anchors of level l of one image, K classes, n candidates or detections of one image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from detectron2.structures import Instances
from torch import Tensor, nn
from torch.nn import functional

from ranking_det.checks import check_at_least, check_choice, check_entries, check_integer
from ranking_det.layers import FastNMS, HardNMS, ScoreVoting, SoftNMS
from ranking_det.modeling.postprocessing import RawDetections, concatenate, postprocess
from ranking_det.modeling.threshold_watch import THRESHOLD_KEYS, count_boxes, count_detections

# The names that yaml configs may use under MODEL.INFERENCE.
__all__ = ["DenseInference", "FastNMS", "HardNMS", "ScoreVoting", "SoftNMS"]

MAX_COORDINATE = 1e8
"""Limit of box coordinates in pixels. Diverged models predict larger ones, whose areas overflow."""

THRESHOLD = f"{THRESHOLD_KEYS[0]} (yaml: MODEL.INFERENCE.SCORE_THRESH)"

MIN_SOFT_SCORE = 1e-3
"""Soft-NMS drops detections whose lowered score is at most this, or at most score_thresh if that is
smaller."""


class DenseInference(nn.Module):
    """Post-processing of dense detectors: select candidates by score, then suppress duplicates.

    The score of an anchor and a class is sigmoid(logit), or with ``softmax`` the softmax over the
    classes. With a centerness or IoU branch it is the geometric mean of this score and
    sigmoid(branch). Boxes are clipped to the image before NMS and score voting.

    Args:
        score_thresh: score threshold in [0, 1]. Candidates whose class score is at most this are
            dropped; the score of a branch does not count here. The scores of ranking losses have no
            fixed scale, so 0 is the safe value for short training runs.
        topk: candidates kept per level, >= 1.
        topk_by: what ``topk`` counts: "pair" counts pairs of anchor and class, as in Detectron2;
            "anchor" counts anchors, ordered by their best class and kept with all their classes, as
            in the papers' code.
        nms: "hard" drops the lower-scored of two overlapping boxes of a class; "linear" and
            "gaussian" lower its score (Soft-NMS; Bodla et al., ICCV 2017).
        nms_thresh: IoU threshold in [0, 1]. Hard NMS drops boxes with an IoU above it; linear
            Soft-NMS lowers the scores of boxes with at least this IoU.
        sigma: width of Gaussian Soft-NMS, which multiplies scores by exp(-IoU^2 / sigma), > 0.
        score_voting: whether each kept box becomes the weighted mean of the boxes of its class that
            overlap it (Kim and Lee, ECCV 2020); scores do not change.
        max_detections: detections kept per image, >= 1.
        suppression: a module to use instead of ``nms``, ``nms_thresh``, ``sigma`` and
            ``score_voting``; see :mod:`ranking_det.layers.suppression`. With a branch, the scores
            that it gets are the geometric means.
        softmax: whether the scores are the softmax of the logits and a background logit of 0, for
            detectors trained with cross entropy.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        *,
        score_thresh: float = 0.05,
        topk: int = 1000,
        topk_by: str = "pair",
        nms: str = "hard",
        nms_thresh: float = 0.5,
        sigma: float = 0.5,
        score_voting: bool = False,
        max_detections: int = 100,
        suppression: nn.Module | None = None,
        softmax: bool = False,
    ) -> None:
        super().__init__()
        for name, value in (("score_thresh", score_thresh), ("nms_thresh", nms_thresh)):
            check_at_least(name, value, 0.0)
            if value > 1:
                raise ValueError(f"{name}: expected a number of at most 1, got {value!r}")
        check_integer("topk", topk, 1)
        check_choice("topk_by", topk_by, ("pair", "anchor"))
        check_choice("nms", nms, ("hard", "linear", "gaussian"))
        check_at_least("sigma", sigma, 0.0, strictly=True)
        if not isinstance(score_voting, bool):
            raise ValueError(f"score_voting: expected True or False, got {score_voting!r}")
        check_integer("max_detections", max_detections, 1)
        self.score_thresh = score_thresh
        self.topk = topk
        self.topk_by = topk_by
        self.nms = nms
        self.nms_thresh = nms_thresh
        self.sigma = sigma
        self.score_voting = score_voting
        self.max_detections = max_detections
        self.suppression = suppression
        self.softmax = softmax

    def extra_repr(self) -> str:
        """Show the options in ``repr``."""
        unlisted = ("training", "suppression")
        options = {k: v for k, v in vars(self).items() if k[0] != "_" and k not in unlisted}
        return ", ".join(f"{name}={value!r}" for name, value in options.items())

    def propose(
        self,
        logits: Sequence[Tensor],
        outputs: Sequence[Tensor],
        anchors: Sequence[Tensor],
        decode: Callable[[Tensor, Tensor], Tensor],
        branch_logits: Sequence[Tensor] | None = None,
    ) -> RawDetections:
        """Select the best candidates of each level of one image and decode their boxes.

        Args:
            logits: one tensor (R_l, K) per level.
            outputs: one tensor (R_l, 4) per level, raw box outputs.
            anchors: one tensor (R_l, 4) per level, XYXY in pixels.
            decode: (outputs (n, 4), anchors (n, 4)) -> boxes (n, 4) XYXY in pixels.
            branch_logits: one tensor (R_l,) per level, logits of the branch; None without a branch.

        Returns:
            The candidates with class scores above the threshold, at most ``topk`` pairs or anchors
            per level, with the rows of their anchors.

        Raises:
            ValueError: the logits of the branch do not fit the anchors.
        """
        levels, offset = [], 0
        branches = [None] * len(logits) if branch_logits is None else branch_logits
        for level in zip(logits, outputs, anchors, branches, strict=True):
            level_logits, level_outputs, level_anchors, branch = level
            class_score = self._class_scores(level_logits)
            count_boxes(class_score, self.score_thresh, THRESHOLD)
            score = _with_branch(class_score, branch)
            rows, classes = self._select(score.masked_fill(class_score <= self.score_thresh, 0.0))
            boxes = decode(level_outputs[rows].float(), level_anchors[rows])
            levels.append(RawDetections(boxes, score[rows, classes], classes, rows + offset))
            offset += len(level_anchors)
        return concatenate(levels)

    def _class_scores(self, logits: Tensor) -> Tensor:
        """Return the scores (R_l, K) of the classes."""
        # In float32, because sigmoids in float16 and bfloat16 make thousands of scores equal.
        logits = logits.float()
        if self.softmax:
            return functional.pad(logits, (0, 1)).softmax(dim=1)[:, :-1]
        return logits.sigmoid()

    def _select(self, score: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows (n,) and classes (n,) of the candidates: scores (R_l, K) above 0."""
        if self.topk_by == "pair":
            top_scores, index = score.flatten().topk(min(self.topk, score.numel()))
            index = index[top_scores > 0]
            return index // score.shape[1], index % score.shape[1]
        rows = score.amax(dim=1).topk(min(self.topk, len(score))).indices
        positions, classes = (score[rows] > 0).nonzero(as_tuple=True)
        return rows[positions], classes

    def suppress(self, raw: RawDetections, image_size: tuple[int, int]) -> Instances:
        """Suppress duplicates (NMS) and keep the detections with the highest scores.

        Boxes are clipped to the image first, so only their visible parts overlap.

        Args:
            raw: the candidates, in any order.
            image_size: (height, width) in pixels of the image to which the coordinates refer.

        Returns:
            Instances with ``pred_boxes``, ``scores`` and ``pred_classes``, by descending score.
        """
        return self.select_best(raw, image_size).to_instances(image_size)

    def select_best(self, raw: RawDetections, image_size: tuple[int, int]) -> RawDetections:
        """Suppress duplicates like :meth:`suppress`, and keep the rows of the anchors.

        Args:
            raw: the candidates, in any order.
            image_size: (height, width) in pixels of the image to which the coordinates refer.

        Returns:
            The detections, by descending score.
        """
        suppression = self.suppression or self._default_suppression()
        best = postprocess(
            raw, image_size, suppression, self.max_detections, max_coordinate=MAX_COORDINATE
        )
        count_detections(len(best.boxes))
        return best

    def _default_suppression(self) -> nn.Module:
        """Build the suppression that the options describe."""
        suppression = HardNMS(self.nms_thresh)
        min_score = min(self.score_thresh, MIN_SOFT_SCORE)
        if self.nms != "hard":
            thresholds = {"iou_thresh": self.nms_thresh, "min_score": min_score}
            suppression = SoftNMS(self.nms, sigma=self.sigma, **thresholds)
        return ScoreVoting(suppression) if self.score_voting else suppression


def _with_branch(score: Tensor, branch: Tensor | None) -> Tensor:
    """Combine class scores (R_l, K) with branch scores; NaN becomes 0, which is not a candidate."""
    if branch is not None:
        check_entries("branch_logits", branch, score, "anchor")
        score = (score * branch.float().sigmoid()[:, None]).sqrt()
    return score.nan_to_num(nan=0.0)
