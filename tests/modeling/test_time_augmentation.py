import numpy as np
import pytest
import torch
from detectron2.evaluation import inference_context
from detectron2.modeling.postprocessing import detector_postprocess
from PIL import Image
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ranking_det.modeling import interface_of
from ranking_det.modeling.dense.inference import DenseInference
from ranking_det.modeling.postprocessing import RawDetections
from tests.modeling.cases import load_masked_cascade, make_batch

BOX = [12.0, 8.0, 24.0, 40.0]  # XYXY, the object in an image of 48 x 64


class RectangleDetector(nn.Module):
    """A detector of the bright rectangle in an image, with higher scores in the left half."""

    input_format = "RGB"

    def __init__(self, **options):
        super().__init__()
        self.inference = DenseInference(**options)
        self.images = []

    def propose(self, batched_inputs):
        assert not torch.is_grad_enabled()
        return [self.find(x["image"]) for x in batched_inputs]

    def find(self, image):
        self.images.append(image)
        bright = image.float().mean(dim=0) > 127
        rows, columns = bright.any(dim=1).nonzero(), bright.any(dim=0).nonzero()
        if not len(rows):
            empty = torch.zeros(0)
            return RawDetections(empty.view(0, 4), empty, empty.long())
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        score = 0.9 if box[2] <= image.shape[2] / 2 else 0.6
        boxes = torch.tensor([[float(x) for x in box]])
        return RawDetections(boxes, torch.tensor([score]), torch.tensor([2]))

    def forward(self, batched_inputs):
        outputs = []
        with torch.no_grad():
            for inputs, raw in zip(batched_inputs, self.propose(batched_inputs)):
                detections = self.inference.suppress(raw, tuple(inputs["image"].shape[-2:]))
                detections = detector_postprocess(detections, inputs["height"], inputs["width"])
                outputs.append({"instances": detections})
        return outputs


def draw_image(box=BOX, height=48, width=64):
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    x1, y1, x2, y2 = (int(x) for x in box)
    image[:, y1:y2, x1:x2] = 255
    return image


def augment(model, **options):
    options = dict(min_sizes=[48], max_size=1000, flip=False) | options
    return interface_of(model).augment_inference(**options)


def detect(model, inputs, **options):
    (output,) = augment(model, **options)([inputs])
    return output["instances"]


@pytest.mark.parametrize("scale", [1, 2, (2, 3)])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("min_sizes", [[48], [96], [96, 48, 144]])
def test_boxes_are_mapped_back_to_the_original_image(scale, flip, min_sizes):
    y, x = scale if isinstance(scale, tuple) else (scale, scale)
    inputs = {"image": draw_image(), "height": 48 * y, "width": 64 * x}
    model = RectangleDetector()
    detections = detect(model, inputs, min_sizes=min_sizes, flip=flip)
    assert [min(image.shape[1:]) for image in model.images] == [
        size for size in min_sizes for _ in range(1 + flip)
    ]
    expected = torch.tensor([BOX]) * torch.tensor([x, y, x, y])
    torch.testing.assert_close(detections.pred_boxes.tensor, expected)
    assert detections.image_size == (48 * y, 64 * x) and detections.pred_classes.tolist() == [2]


def test_flip_finds_a_better_detection_in_the_mirror_image():
    inputs = {"image": draw_image([44, 8, 60, 40]), "height": 48, "width": 64}
    assert detect(RectangleDetector(), inputs).scores.item() == pytest.approx(0.6)
    detections = detect(RectangleDetector(), inputs, flip=True)
    assert detections.scores.item() == pytest.approx(0.9)
    assert detections.pred_boxes.tensor.tolist() == [[44, 8, 60, 40]]


def test_the_detections_of_a_mirrored_image_are_mirrored_with_flip():
    image = draw_image([40, 8, 52, 40])
    results = [
        detect(
            RectangleDetector(),
            {"image": x, "height": 48, "width": 64},
            flip=True,
            min_sizes=[48, 96],
        )
        for x in (image, image.flip(2))
    ]
    mirrored = 64 - results[1].pred_boxes.tensor[:, [2, 1, 0, 3]]
    mirrored[:, [1, 3]] = results[1].pred_boxes.tensor[:, [1, 3]]
    torch.testing.assert_close(results[0].pred_boxes.tensor, mirrored)
    torch.testing.assert_close(results[0].scores, results[1].scores)


def test_the_candidates_of_all_views_are_suppressed_together():
    model = RectangleDetector(nms="linear", nms_thresh=0.5, max_detections=3)
    calls = []
    suppress = model.inference.suppress
    model.inference.suppress = lambda *args: calls.append(args) or suppress(*args)
    inputs = {"image": draw_image(), "height": 96, "width": 128}
    detect(model, inputs, min_sizes=[48, 96], flip=True)
    ((raw, size),) = calls
    assert size == (96, 128) and len(raw.boxes) == len(raw.scores) == len(raw.classes) == 4
    assert raw.boxes.dtype == torch.float32 and raw.classes.dtype == torch.int64
    torch.testing.assert_close(raw.scores, torch.tensor([0.9, 0.6, 0.9, 0.6]))


@pytest.mark.parametrize("options", [{}, {"nms": "gaussian", "score_voting": True}])
def test_augmentation_in_the_original_size_without_flip_equals_plain_inference(build, options):
    model = build(inference=DenseInference(score_thresh=0.0, **options)).eval()
    batch = make_batch((1, 1), sizes=((96, 128), (64, 64)))
    batch[0] |= {"height": 192, "width": 300}  # as if the loader had shrunk the image
    with torch.no_grad():
        plain = [model([inputs])[0]["instances"] for inputs in batch]
    for inputs, expected in zip(batch, plain):
        size = min(inputs["image"].shape[1:])
        detections = detect(model, inputs, min_sizes=[size])
        assert (
            detections.image_size == expected.image_size and len(detections) == len(expected) > 50
        )
        torch.testing.assert_close(detections.scores, expected.scores)
        torch.testing.assert_close(detections.pred_boxes.tensor, expected.pred_boxes.tensor)
        assert torch.equal(detections.pred_classes, expected.pred_classes)


def test_a_retinanet_detects_in_several_sizes_within_the_image(build):
    model = build()
    batch = make_batch((1, 1), sizes=((96, 128), (64, 80)))
    with inference_context(augmented := augment(model, min_sizes=[64, 96], flip=True)):
        outputs = augmented(batch)
    for inputs, output in zip(batch, outputs):
        boxes = output["instances"].pred_boxes.tensor
        assert 0 < len(boxes) <= 100 and not boxes.requires_grad
        assert (boxes >= 0).all() and (boxes[:, [0, 2]] <= inputs["width"]).all()
        assert (boxes[:, [1, 3]] <= inputs["height"]).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_boxes_refer_to_the_given_image_if_height_and_width_are_missing():
    detections = detect(RectangleDetector(), {"image": draw_image()}, min_sizes=[96])
    assert detections.image_size == (48, 64)
    assert detections.pred_boxes.tensor.tolist() == [BOX]


def test_the_image_file_is_read_if_no_image_is_given(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(np.ascontiguousarray(draw_image().permute(1, 2, 0).numpy())).save(path)
    detections = detect(RectangleDetector(), {"file_name": str(path)}, min_sizes=[96], flip=True)
    assert detections.image_size == (48, 64)
    assert detections.pred_boxes.tensor.tolist() == [BOX]


def test_an_image_without_objects_has_no_detections():
    inputs = {"image": torch.zeros(3, 48, 64, dtype=torch.uint8), "height": 48, "width": 64}
    assert len(detect(RectangleDetector(), inputs, min_sizes=[48, 96], flip=True)) == 0


def test_boxes_beyond_the_image_are_clipped_and_empty_boxes_dropped():
    model = RectangleDetector()
    boxes = torch.tensor([[-9.0, 4.0, 30.0, 90.0], [70.0, 4.0, 90.0, 8.0], [torch.nan] * 4])
    raw = RawDetections(boxes, torch.tensor([0.5, 0.9, 0.9]), torch.tensor([0, 1, 1]))
    model.find = lambda image: raw
    detections = detect(model, {"image": draw_image()})
    assert detections.pred_boxes.tensor.tolist() == [[0, 4, 30, 48]]


@pytest.mark.parametrize("training", [True, False])
def test_an_evaluation_restores_the_mode_of_the_model(training):
    model = RectangleDetector().train(training)
    with inference_context(augmented := augment(model)):
        assert not model.training
        augmented([{"image": draw_image()}])
    assert model.training == training


def test_a_distributed_model_is_unwrapped():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        model = RectangleDetector()
        model.weight = nn.Parameter(torch.zeros(1))
        assert augment(DistributedDataParallel(model)).model is model
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_sizes": []}, "min_sizes: expected at least one size, got none"),
        ({"min_sizes": [480, 0]}, "min_sizes: expected an integer of at least 1, got 0"),
        ({"min_sizes": [1.5]}, "min_sizes: expected an integer of at least 1, got 1.5"),
        ({"max_size": 0}, "max_size: expected an integer of at least 1, got 0"),
        ({"flip": "horizontal"}, "flip: expected True or False, got 'horizontal'"),
    ],
)
def test_the_error_names_the_wrong_option(options, message):
    with pytest.raises(ValueError, match=message):
        augment(RectangleDetector(), **options)


def test_a_model_that_is_not_a_detector_raises_value_error():
    with pytest.raises(ValueError, match="model: expected a dense detector .* got Linear"):
        augment(nn.Linear(2, 2))


def test_an_rcnn_on_precomputed_proposals_raises_value_error(build):
    model = build("quick/faster_rs.py")
    model.proposal_generator = None
    with pytest.raises(
        ValueError, match="model: expected an R-CNN with .*, got one for precomputed"
    ):
        augment(model)


def rcnn(build, name):
    if name == "cascade_mask":
        name, changes = "cascade_rs", {"roi_heads": load_masked_cascade().roi_heads}
    else:
        changes = {}
    model = build(f"quick/{name}.py", **changes).eval()
    for stage in model.roi_heads.stages():
        # Otherwise all scores would be nearly equal.
        torch.nn.init.normal_(stage.predictor.cls_score.weight, std=0.3)
    return model


@pytest.mark.parametrize("name", ["mask_rs", "mask_ce", "cascade_rs", "cascade_mask"])
def test_augmentation_of_an_rcnn_in_the_original_size_equals_plain_inference(build, name):
    model = rcnn(build, name)
    inputs = make_batch((1,), sizes=((64, 80),))[0] | {"height": 128, "width": 160}
    with torch.no_grad():
        expected = model([inputs])[0]["instances"]
        detections = detect(model, inputs, min_sizes=[64])
    assert detections.image_size == expected.image_size == (128, 160) and len(detections) > 20
    assert len(detections) == len(expected) and torch.equal(
        detections.pred_classes, expected.pred_classes
    )
    torch.testing.assert_close(detections.scores, expected.scores)
    torch.testing.assert_close(
        detections.pred_boxes.tensor, expected.pred_boxes.tensor, rtol=0, atol=0.01
    )
    assert detections.has("pred_masks") == ("mask" in name)
    if detections.has("pred_masks"):
        assert (detections.pred_masks == expected.pred_masks).float().mean() > 0.999


@pytest.mark.parametrize("name", ["mask_rs", "cascade_rs", "cascade_mask"])
def test_the_detections_of_an_rcnn_in_a_mirrored_image_are_mirrored_with_flip(build, name):
    model = rcnn(build, name)
    (inputs,) = make_batch((1,), sizes=((64, 64),))
    mirrored = inputs | {"image": inputs["image"].flip(2)}
    with inference_context(model), torch.no_grad():
        detections, mirrored_detections = (
            detect(model, x, min_sizes=[64, 96], flip=True) for x in (inputs, mirrored)
        )
    boxes = 64 - mirrored_detections.pred_boxes.tensor[:, [2, 1, 0, 3]]
    boxes[:, [1, 3]] = mirrored_detections.pred_boxes.tensor[:, [1, 3]]
    # Detections with nearly equal scores may be in another order.
    distances = (detections.pred_boxes.tensor[:, None] - boxes).abs().amax(dim=2)
    distances[detections.pred_classes[:, None] != mirrored_detections.pred_classes] = torch.inf
    nearest = distances.min(dim=1)
    is_matched = nearest.values < 0.01
    assert len(detections) > 20 and is_matched.float().mean() > 0.9
    matches = mirrored_detections[nearest.indices[is_matched]]
    torch.testing.assert_close(detections.scores[is_matched], matches.scores)
    if "mask" in name:
        assert (
            detections.pred_masks[is_matched] == matches.pred_masks.flip(2)
        ).float().mean() > 0.99


def test_an_rcnn_that_detects_nothing_returns_to_training_mode(build):
    model = rcnn(build, "mask_rs").train()
    model.roi_heads.box_predictor.test_score_thresh = 1.0
    (inputs,) = make_batch((1,), sizes=((64, 64),))
    augmented = augment(model, min_sizes=[64, 96], flip=True)
    with inference_context(augmented), torch.no_grad():
        detections = augmented([inputs])[0]["instances"]
    assert len(detections) == 0 and detections.pred_masks.shape == (0, 64, 64)
    assert model.training and model.roi_heads.mask_on
