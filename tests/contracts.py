"""Checks of the contracts that a new loss, assigner, backbone or data set must satisfy.

``docs/extending.md`` shows how to call them on your own component, which may be outside this
project. ``tests/test_contracts.py`` calls them on every component of the project. They raise an
AssertionError that says how a component breaks its contract.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from ranking_det import row_blocks
from ranking_det.assigners import Predictions
from ranking_det.labels import BACKGROUND, IGNORE
from tests.assigners.cases import grid, random_boxes
from tests.criteria.cases import LABELS, gradients, make_candidates
from tests.losses.cases import CASES

HALF_DTYPES = (torch.float16, torch.bfloat16)
LABEL_SETS = {
    "mixed": LABELS,
    "no positive": torch.full((6,), BACKGROUND),
    "all ignored": torch.full((6,), IGNORE),
    "no background": torch.tensor([1, 2, 0]),
    "one positive": torch.tensor([2]),
    "no rows": torch.zeros(0, dtype=torch.int64),
}


def check_ranking_loss(loss):
    """Check a loss on flat logits.

    Args:
        loss: ``(logits (M,), positives (P,), quality (P,)) -> scalar`` or a tuple of scalars.
    """
    for name, case in CASES.items():
        value, gradient = _value_and_gradient(loss, *case)
        assert value.isfinite() and gradient.isfinite().all(), f"{name}: not finite"
        if name == "no positive":
            assert value == 0 and not gradient.any(), f"{name}: expected a loss of zero"
        if name == "all negatives above":
            assert gradient.any(), f"{name}: no logit has a gradient"

        # In the cases with few negatives, a loss of the top k negatives also selects -inf entries.
        ignored = torch.full((100,), -torch.inf, dtype=case.logits.dtype)
        extended = torch.cat([case.logits.detach(), ignored]).requires_grad_()
        extended_value, gradient = _value_and_gradient(loss, extended, case.positives, case.quality)
        torch.testing.assert_close(
            extended_value, value, msg=f"{name}: logits of -inf change the loss"
        )
        assert gradient.isfinite().all(), (
            f"{name}: with more logits of -inf, the gradient is NaN or infinite"
        )
        assert not gradient[-len(ignored) :].any(), f"{name}: logits of -inf have a gradient"

    logits, positives, quality = CASES["300 positives"]
    value, gradient = _value_and_gradient(loss, logits, positives, quality)
    order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(0))
    shuffled = logits.detach()[order].requires_grad_()
    shuffled_value, permuted = _value_and_gradient(
        loss, shuffled, order.argsort()[positives], quality
    )
    torch.testing.assert_close(
        shuffled_value, value, msg="the order of the logits changes the loss"
    )
    torch.testing.assert_close(
        permuted, gradient[order], msg="the order of the logits changes the gradient"
    )

    with_nan = logits.detach().clone()
    with_nan[positives[0]] = torch.nan
    nan_value, _ = _value_and_gradient(loss, with_nan.requires_grad_(), positives, quality)
    assert nan_value.isnan(), "a NaN among the logits of positives is hidden"

    for dtype in HALF_DTYPES:
        half = logits.detach().to(dtype).requires_grad_()
        half_value, gradient = _value_and_gradient(loss, half, positives, quality.float())
        assert half_value.dtype == torch.float32, f"{dtype}: computed in {half_value.dtype}"
        assert gradient.dtype == dtype and gradient.isfinite().all(), (
            f"{dtype}: the gradient has another dtype or is not finite"
        )


def check_criterion(build):
    """Check a criterion, such as one with your classification loss in it.

    Args:
        build: builds a new criterion, because a criterion may have state.
    """
    for name, labels in LABEL_SETS.items():
        for dtype in (torch.float32, *HALF_DTYPES, torch.float64):
            case, candidates = f"{name}, {dtype}", make_candidates(labels, dtype=dtype)
            output, gradient, box_gradient = gradients(build(), candidates)
            scalars = all(loss.dim() == 0 and loss.isfinite() for loss in output.losses.values())
            assert scalars, f"{case}: a loss is not a finite scalar"
            assert gradient is not None, f"{case}: the logits get no gradient"
            assert gradient.isfinite().all() and gradient.dtype == dtype, (
                f"{case}: the gradient has another dtype or is not finite"
            )
            assert box_gradient.isfinite().all(), f"{case}: the gradient of the boxes is not finite"
            assert not output.task_loss.requires_grad, f"{case}: task_loss is not detached"
    candidates = make_candidates(LABELS)
    ignored = LABELS == IGNORE
    expected, expected_gradient, _ = gradients(build(), candidates)
    assert expected_gradient[~ignored].any(), "no logit has a gradient"
    for value in (-torch.inf, 30.0):
        logits = candidates.logits.detach().masked_fill(ignored[:, None], value)
        changed_candidates = replace(make_candidates(LABELS), logits=logits.requires_grad_())
        output, gradient, _ = gradients(build(), changed_candidates)
        for name, loss in expected.losses.items():
            message = f"{name} depends on logits of ignored rows"
            torch.testing.assert_close(output.losses[name], loss, msg=message)
        assert not gradient[ignored].any(), "ignored rows have a gradient"


def check_assigner(assigner):
    """Check an assigner that accepts three levels of anchors.

    Args:
        assigner: a :class:`ranking_det.assigners.Assigner`.
    """
    generator = torch.Generator().manual_seed(3)
    scale = 8.0 if assigner.one_per_location else 4.0
    anchors = [grid(96, stride, (scale,)) for stride in (8, 16, 32)]
    boxes = [random_boxes(count, 96, generator) for count in (7, 0, 3)]
    classes = [torch.randint(0, 4, (len(b),), generator=generator) for b in boxes]
    count, num_rows = sum(map(len, anchors)), 3 * sum(map(len, anchors))
    valid = torch.rand(num_rows, generator=generator) > 0.1
    predictions = None
    if assigner.needs_predictions:
        logits = torch.randn(num_rows, 4, generator=generator, dtype=torch.float64)
        decoded = torch.cat(anchors).repeat(3, 1) + torch.rand(4, generator=generator)
        predictions = Predictions(logits, decoded)
    inputs = anchors, boxes, classes, valid, predictions
    labels, gt_index = result = assigner(*inputs)

    for name, value in zip(result._fields, result):
        is_valid = value.shape == (num_rows,) and value.dtype == torch.int64
        assert is_valid, f"{name}: expected int64 of shape ({num_rows},)"
    positive = labels >= 0
    assert positive.any(), "no positive"
    assert (gt_index[~valid] == -1).all(), "an anchor in the padding is matched"
    assert torch.equal(positive, gt_index >= 0), "labels and gt_index disagree on the positives"
    assert ((labels >= IGNORE) & (gt_index >= -1)).all(), "neither a class, BACKGROUND nor IGNORE"
    expected_labels = torch.cat(classes)[gt_index[positive]]
    assert torch.equal(labels[positive], expected_labels), "a label is not the class of its object"
    assert (labels[~valid] == IGNORE).all(), "an anchor in the padding is not ignored"
    assert not positive[count : 2 * count].any(), "a positive in an image without objects"

    for i in range(3):
        rows, first = slice(i * count, (i + 1) * count), sum(map(len, boxes[:i]))
        image_predictions = predictions and Predictions(*(value[rows] for value in predictions))
        single = assigner(
            anchors, boxes[i : i + 1], classes[i : i + 1], valid[rows], image_predictions
        )
        assert torch.equal(single.labels, labels[rows]), (
            "labels depend on other images of the batch"
        )
        index = torch.where(single.gt_index >= 0, single.gt_index + first, -1)
        assert torch.equal(index, gt_index[rows]), "gt_index does not index the batch's objects"
    with mock.patch.object(row_blocks, "BLOCK_ENTRIES", 2 * count):
        assert torch.equal(assigner(*inputs).labels, labels), "the block size changes the result"
    empty = [level[:0] for level in anchors]
    no_predictions = predictions and Predictions(*(value[:0] for value in predictions))
    assert not len(assigner(empty, boxes, classes, valid[:0], no_predictions).labels), (
        "expected no labels without anchors"
    )


def check_backbone(backbone, sizes: Sequence[tuple[int, int]] = ((64, 96), (32, 32))):
    """Check a backbone, or an FPN with its backbone.

    Args:
        backbone: a Detectron2 ``Backbone``.
        sizes: sizes of images, (height, width), padded to ``size_divisibility``.
    """
    shapes, step = backbone.output_shape(), max(backbone.size_divisibility, 1)
    strides = [shape.stride for shape in shapes.values()]
    assert strides == sorted(strides), "the features are not ordered from fine to coarse"
    assert all(stride & (stride - 1) == 0 for stride in strides), "a stride is not a power of 2"
    for height, width in sizes:
        height, width = (-(-side // step) * step for side in (height, width))
        features = backbone(torch.rand(2, 3, height, width))
        assert set(features) == set(shapes), (
            "forward and output_shape disagree on the names of features"
        )
        for name, shape in shapes.items():
            size = -(-height // shape.stride), -(-width // shape.stride)
            expected = 2, shape.channels, *size
            assert features[name].shape == expected, f"{name}: expected shape {expected}"
    sum(feature.square().sum() for feature in features.values()).backward()
    for name, parameter in backbone.named_parameters():
        if parameter.requires_grad:
            gradient = parameter.grad
            assert gradient is not None and gradient.isfinite().all(), f"{name}: no gradient"


def check_data_set(name):
    """Check a registered data set: what the mapper, the evaluator and the preview read.

    Args:
        name: the name in Detectron2's catalogs.
    """
    records, classes = DatasetCatalog.get(name), MetadataCatalog.get(name).get("thing_classes")
    assert classes, "MetadataCatalog has no 'thing_classes'"
    assert records and any(record["annotations"] for record in records), "no object"
    ids = [record["image_id"] for record in records]
    assert len(set(ids)) == len(ids), "two images have the same image_id"
    for record in records:
        where = f"image {record['image_id']}"
        assert Path(record["file_name"]).is_file(), f"{where}: no file {record['file_name']}"
        for entry in record["annotations"]:
            is_valid = 0 <= entry["category_id"] < len(classes)
            assert is_valid, f"{where}: category_id: expected 0 to {len(classes) - 1}"
            x1, y1, x2, y2 = BoxMode.convert(entry["bbox"], entry["bbox_mode"], BoxMode.XYXY_ABS)
            inside = x1 >= -1 and y1 >= -1 and x2 <= record["width"] + 1
            assert inside and y2 <= record["height"] + 1, f"{where}: a box lies outside"
            assert x1 < x2 and y1 < y2, f"{where}: a box has no area"


def _value_and_gradient(loss, logits, positives, quality):
    value = loss(logits, positives, quality)
    value = sum(value) if isinstance(value, tuple) else value
    assert value.requires_grad, "the loss is not attached to the logits"
    (gradient,) = torch.autograd.grad(value, logits)
    return value.detach(), gradient
