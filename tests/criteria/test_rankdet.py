import pytest
import torch

from ranking_det.boxes import box_iou
from ranking_det.criteria import BoxTargets, Candidates, Criterion, RankDet
from ranking_det.labels import BACKGROUND, IGNORE
from ranking_det.losses import focal
from ranking_det.losses.kernels import constants
from tests.losses.cases import assert_close
from tests.losses.pairs import by_pair_matrix, iou_guided_by_loop, mined_by_loop


def rankdet_by_loop(candidates, labels, rows, *, negatives, probabilities, merge_levels):
    """Return the three losses of rows that are ranked together, or None without a positive."""
    positives = torch.nonzero(labels >= 0).squeeze(1)
    index_of_row = {r: i for i, r in enumerate(positives.tolist()) if r in rows}
    if not index_of_row:
        return None
    logits = candidates.logits
    scores = logits.sigmoid() if probabilities else logits
    foreground = torch.stack([scores[r, labels[r]] for r in index_of_row])
    background = [scores[r].max() for r in rows if labels[r] == BACKGROUND]
    background = torch.stack(background) if background else scores[:0, 0]
    mined = mined_by_loop(background, negatives, 15, 3 * len(index_of_row))
    losses = [by_pair_matrix(foreground, mined) if len(mined) else 0 * scores.sum(), 0.0]
    for c in range(scores.shape[1]):
        high = [scores[r, c] for r in index_of_row if labels[r] == c]
        low = [scores[r, c] for r in rows if labels[r] not in (c, IGNORE)]
        if high and low:
            mined = mined_by_loop(torch.stack(low), negatives, 3, 3 * len(high))
            losses[1] = losses[1] + by_pair_matrix(torch.stack(high), mined)
    ious = box_iou(candidates.boxes.boxes, candidates.boxes.gt_boxes)[list(index_of_row.values())]
    level = 0 if merge_levels else candidates.level[list(index_of_row)]
    groups = labels[list(index_of_row)] * 10 + level
    return losses + [iou_guided_by_loop(foreground, ious, groups, 1.0, "higher")]


def random_candidates(seed=0, sizes=(12, 30, 9, 0, 25), classes=4, levels=3):
    """Make candidates of several images, one without positives and one without rows."""
    generator = torch.Generator().manual_seed(seed)
    rows = sum(sizes)
    image = torch.cat([torch.full((size,), i) for i, size in enumerate(sizes)])
    labels = torch.randint(-2, classes, (rows,), generator=generator)
    labels[torch.rand(rows, generator=generator) < 0.4] = BACKGROUND
    labels[image == 2] = BACKGROUND
    labels[image == 0] = labels[image == 0].clamp(min=0)
    positives = int((labels >= 0).sum())
    corner = 50 * torch.rand(positives, 2, generator=generator, dtype=torch.float64)
    anchors = torch.cat([corner, corner + 20], dim=1)
    outputs = torch.randn(positives, 4, generator=generator, dtype=torch.float64).requires_grad_()
    shift = 3 * torch.rand(positives, 4, generator=generator, dtype=torch.float64)
    logits = torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    return Candidates(
        logits=logits.requires_grad_(),
        labels=labels,
        positives=(labels >= 0).nonzero().squeeze(1),
        image=image,
        level=torch.randint(0, levels, (rows,), generator=generator),
        num_images=len(sizes),
        boxes=BoxTargets(
            outputs=outputs,
            boxes=anchors + outputs,
            anchors=anchors,
            gt_boxes=anchors + shift,
        ),
    )


@pytest.mark.parametrize("elements", [40, 1 << 20])
@pytest.mark.parametrize("merge_levels", [True, False])
@pytest.mark.parametrize("probabilities", [True, False])
@pytest.mark.parametrize("negatives", ["group", "ohem"])
@pytest.mark.parametrize("scope", ["image", "gpu"])
def test_rankdet_agrees_with_loops_over_images_classes_and_levels(
    scope, negatives, probabilities, merge_levels, elements, monkeypatch
):
    monkeypatch.setattr(constants, "ELEMENTS", elements)
    candidates = random_candidates()
    labels = candidates.labels
    options = dict(negatives=negatives, probabilities=probabilities, merge_levels=merge_levels)
    criterion = Criterion(classification=RankDet(**options), rank_scope=scope)
    output = criterion(candidates)
    values = [output.losses[name] for name in ("loss_global", "loss_class", "loss_iou")]
    image = candidates.image if scope == "image" else torch.zeros_like(labels)
    parts = [
        rankdet_by_loop(
            candidates,
            labels,
            torch.nonzero(image == i).squeeze(1).tolist(),
            **options,
        )
        for i in range(candidates.num_images)
    ]
    parts = [part for part in parts if part is not None]
    assert len(parts) == (3 if scope == "image" else 1)
    for losses in zip(*parts, strict=True):
        loss, expected = values.pop(0), sum(losses) / len(parts)
        assert_close(loss, expected, 1e-12)
        for leaf in (candidates.logits, candidates.boxes.outputs):
            gradients = [
                torch.autograd.grad(x, leaf, retain_graph=True, materialize_grads=True)[0]
                if x.requires_grad
                else torch.zeros_like(leaf)
                for x in (loss, expected)
            ]
            assert_close(*gradients, 1e-11)


@pytest.mark.parametrize("scope", ["image", "gpu"])
def test_the_focal_loss_is_the_sum_over_all_images_per_positive(scope):
    candidates = random_candidates()
    options = dict(global_weight=0.0, class_weight=0.0)
    iou_only, combined = (
        Criterion(classification=RankDet(focal_weight=weight, **options), rank_scope=scope)
        for weight in (0.0, 2.0)
    )
    losses = combined(candidates).losses
    expected = focal(candidates.logits, candidates.labels) / len(candidates.positives)
    assert set(losses) == {"loss_iou", "loss_cls", "loss_box"}
    assert_close(losses["loss_cls"], 2 * expected, 1e-12)
    assert_close(losses["loss_iou"], iou_only(candidates).losses["loss_iou"], 1e-12)
