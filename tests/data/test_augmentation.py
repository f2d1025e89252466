"""SSD's data augmentation, and the mapper that passes boxes to it."""

import copy
import functools

import cv2
import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.structures import BoxMode
from PIL import Image

from ranking_det.data.augmentation import (
    ColorPadTransform,
    Expand,
    MinIoURandomCrop,
    PhotometricDistortion,
    centers_inside,
)
from ranking_det.data.mapper import BoxMapper

MEAN = (123.675, 116.28, 103.53)
NO_BOXES = np.zeros((0, 4))


@pytest.fixture(autouse=True)
def seed():
    np.random.seed(0)


def random_image(height=120, width=160):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def augmentation():
    return [
        PhotometricDistortion(),
        Expand(MEAN),
        MinIoURandomCrop(),
        T.Resize((512, 512)),
        T.RandomFlip(),
    ]


def photometric(**settings):
    """Return a photometric distortion in which only the given settings change the image."""
    neutral = {"brightness": 0.0, "contrast": (1.0, 1.0), "saturation": (1.0, 1.0), "hue": 0.0}
    aug = PhotometricDistortion(**(neutral | settings), prob=1.0)
    np.random.seed(4)  # a permutation of the channels that moves none
    return aug


def unpermuted(aug, image):
    """Apply all steps except the last, the permutation of the channels."""
    return T.TransformList(aug.get_transform(image).transforms[:-1]).apply_image(image)


def test_photometric_distortion_changes_each_quantity_within_its_range():
    gray = np.full((2, 2, 3), 100, np.uint8)
    orange = np.array([[[200, 120, 40]]], np.uint8)
    shifts, factors, ratios, reds = [], [], [], []
    for _ in range(300):
        shifts.append(unpermuted(PhotometricDistortion(prob=1.0, contrast=(1, 1)), gray)[0, 0, 0])
        aug = PhotometricDistortion(brightness=0, prob=1.0)
        factors.append(unpermuted(aug, gray)[0, 0, 0])
        aug = PhotometricDistortion(brightness=0, contrast=(1, 1), hue=0, prob=1.0)
        pixel = unpermuted(aug, orange)[0, 0].astype(float)
        assert abs(pixel.max() - 200) <= 1  # the value does not change
        ratios.append((pixel.max() - pixel.min()) / pixel.max() / 0.8)
        aug = PhotometricDistortion(brightness=0, contrast=(1, 1), saturation=(1, 1), prob=1.0)
        pixel = unpermuted(aug, orange)[0, 0].astype(float)
        assert (abs(np.sort(pixel)[[0, 2]] - (40, 200)) <= 1).all()
        reds.append(30 * 2 * (pixel[1] - 40) / 160)  # hue 0 is red, 60 is yellow; orange is 30
    for values, low, high in (
        (shifts, 100 - 32, 100 + 32),
        (factors, 50, 150),
        (ratios, 0.5, 1.5),  # saturation .8 grows beyond 1
        (reds, 30 - 18, 30 + 18),
    ):
        margin = 0.05 * (high - low)
        assert low - 1 <= min(values) < low + margin, values
        assert high - margin < max(values) <= high + 1, values


def test_each_step_changes_half_of_the_images_and_contrast_comes_first_in_half():
    image, aug, lengths, first = random_image(4, 4), PhotometricDistortion(), [], []
    for _ in range(2000):
        steps = aug.get_transform(image).transforms[1:]  # the first is the conversion to float
        lengths.append(len(steps))
        kinds = [
            "contrast" if getattr(step, "src_image", 1) == 0 else step.op.func.__name__
            for step in steps
            if not (isinstance(step, T.BlendTransform) and step.dst_weight == 1)
        ]
        if {"contrast", "_change_colors"} <= set(kinds):
            first.append(kinds.index("contrast") < kinds.index("_change_colors"))
    # Brightness, contrast and permutation each in 1/2, saturation or hue in 3/4.
    assert abs(np.mean(lengths) - 2.25) < 0.1
    assert abs(np.mean(first) - 0.5) < 0.06


def test_all_permutations_of_the_channels_are_equally_frequent():
    image, aug = np.array([[[10, 20, 30]]], np.uint8), photometric()
    orders = [tuple(aug.get_transform(image).apply_image(image)[0, 0]) for _ in range(1200)]
    counts = {order: orders.count(order) for order in set(orders)}
    assert len(counts) == 6 and min(counts.values()) > 140


def record_transforms(aug, transforms):
    """Make an augmentation append each transform that it draws to a list."""
    original = aug.get_transform

    @functools.wraps(original)  # Detectron2 reads the argument names
    def get_transform(*args):
        transforms.append(original(*args))
        return transforms[-1]

    aug.get_transform = get_transform


class Draws(dict):
    """The last number that numpy drew, by its range; "order" is the last permutation."""

    def __init__(self, monkeypatch):
        uniform, permutation = np.random.uniform, np.random.permutation
        monkeypatch.setattr(
            np.random, "uniform", lambda *args: self.record(args[:2], uniform(*args))
        )
        monkeypatch.setattr(
            np.random, "permutation", lambda n: self.record("order", permutation(n))
        )

    def record(self, key, value):
        self[key] = value
        return value


def distort(image, draws, contrast_first):
    """Apply the published steps in float32, one after the other, with the drawn numbers."""
    image = image.astype(np.float32) + np.float32(draws[-32.0, 32.0])
    if contrast_first:
        image = image * np.float32(draws[0.5, 1.5])
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 1] = hsv[..., 1] * np.float32(draws[0.4, 1.6])
    hue = hsv[..., 0] + np.float32(draws[-18.0, 18.0])
    hue[hue > 360] -= 360
    hue[hue < 0] += 360
    hsv[..., 0] = hue
    image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if not contrast_first:
        image = image * np.float32(draws[0.5, 1.5])
    return image[..., draws["order"]]


@pytest.mark.parametrize("contrast_first", [0, 1])
def test_photometric_distortion_equals_the_published_steps_in_float32(contrast_first, monkeypatch):
    draws, outside = Draws(monkeypatch), 0
    monkeypatch.setattr(np.random, "randint", lambda n: contrast_first)
    aug, image = PhotometricDistortion(saturation=(0.4, 1.6), prob=1.0), random_image(20, 30)
    for _ in range(20):
        distorted = aug.get_transform(image).apply_image(image)
        expected = distort(image, draws, contrast_first)
        assert distorted.dtype == np.float32
        np.testing.assert_allclose(distorted, expected, atol=0.01)
        outside += ((distorted < 0) | (distorted > 255)).sum()
        assert (distorted != np.rint(distorted)).any()
    assert outside > 1000  # nothing is clipped


def test_saturation_and_contrast_change_a_color_as_computed_by_hand():
    orange = np.array([[[200, 120, 40]]], np.uint8)  # hue 30, saturation .8, value 200
    aug = photometric(saturation=(1.5, 1.5))
    np.testing.assert_allclose(unpermuted(aug, orange), [[[200, 80, -40]]], atol=1e-3)
    dark = np.array([[[20, 20, 20]]], np.uint8)
    aug = photometric(contrast=(1.5, 1.5))
    assert unpermuted(aug, dark + np.uint8(200)).tolist() == [[[330, 330, 330]]]


def test_only_the_dtype_changes_with_probability_0():
    image = random_image(4, 4)
    unchanged = PhotometricDistortion(prob=0.0).get_transform(image).apply_image(image)
    assert unchanged.dtype == np.float32 and np.array_equal(unchanged, image)


def test_the_whole_augmentation_equals_the_published_steps_in_float32(tmp_path, monkeypatch):
    record = write(tmp_path, [(10, 10, 60, 50), (70, 20, 150, 60)])
    pixels = np.asarray(Image.open(record["file_name"]))
    chain, transforms = augmentation(), []
    chain[:2] = PhotometricDistortion(saturation=(0.4, 1.6), prob=1), Expand(MEAN, prob=1)
    for aug in chain:
        record_transforms(aug, transforms)
    draws, cases = Draws(monkeypatch), set()
    mapper = BoxMapper(augmentations=chain, image_format="RGB")
    for _ in range(30):
        transforms.clear()
        image = mapper(record)["image"]
        colors, pad, crop, _, flip = transforms
        # Conversion to float, brightness, then contrast (a blend) and colors in either order.
        contrast_first = isinstance(colors.transforms[2], T.BlendTransform)
        expected = distort(pixels, draws, contrast_first)
        height, width = expected.shape[:2]
        canvas = np.empty((pad.y0 + height + pad.y1, pad.x0 + width + pad.x1, 3), np.float32)
        canvas[:] = MEAN
        canvas[pad.y0 : pad.y0 + height, pad.x0 : pad.x0 + width] = expected
        if isinstance(crop, T.CropTransform):
            canvas = canvas[crop.y0 : crop.y0 + crop.h, crop.x0 : crop.x0 + crop.w]
        expected = cv2.resize(canvas, (512, 512), interpolation=cv2.INTER_LINEAR)
        if isinstance(flip, T.HFlipTransform):
            expected = expected[:, ::-1]
        assert image.dtype == torch.float32 and image.shape == (3, 512, 512)
        np.testing.assert_allclose(image.permute(1, 2, 0), expected, atol=0.05)
        cases.add((type(crop), type(flip), contrast_first))
    assert len(cases) == 8


def test_expand_places_half_of_the_images_on_a_larger_canvas_of_the_mean():
    image, aug, ratios = random_image(), Expand(MEAN), []
    boxes = np.array([[0.0, 0.0, 160.0, 120.0]])
    for _ in range(200):
        transform = aug.get_transform(image)
        larger, (box,) = transform.apply_image(image), transform.apply_box(boxes.copy())
        x0, y0, x1, y1 = box.astype(int)
        assert np.array_equal(larger[y0:y1, x0:x1], image)
        canvas = np.ones(larger.shape[:2], bool)
        canvas[y0:y1, x0:x1] = False
        assert (larger[canvas] == np.rint(MEAN)).all()
        ratios.append(larger.shape[0] / 120)
        assert abs(larger.shape[1] / 160 - ratios[-1]) < 0.02
    expanded = np.array(ratios)[np.array(ratios) > 1]
    assert abs(len(expanded) / 200 - 0.5) < 0.1
    assert expanded.max() <= 4 and abs(expanded.mean() - 2.5) < 0.25


def crops(boxes, count=400, **options):
    image, aug = random_image(), MinIoURandomCrop(**options)
    for _ in range(count):
        transform = aug.get_transform(image, boxes)
        if isinstance(transform, T.CropTransform):
            t = transform
            yield np.array([t.x0, t.y0, t.x0 + t.w, t.y0 + t.h], float)
        else:
            yield None


def iou(window, boxes):
    shared = np.minimum(boxes[:, 2:], window[2:]) - np.maximum(boxes[:, :2], window[:2])
    shared = shared.clip(0).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (window[2:] - window[:2]).prod()
    return shared / (areas - shared)


@pytest.mark.parametrize("boxes", [[[20, 10, 140, 110]], [[20, 10, 100, 90], [60, 30, 150, 115]]])
def test_crop_windows_respect_the_size_the_aspect_ratio_and_a_box_center(boxes):
    for window in crops(np.array(boxes, float)):
        if window is None:
            continue
        x0, y0, x1, y1 = window
        assert 0 <= x0 < x1 <= 160 and 0 <= y0 < y1 <= 120
        # Both ends are rounded down to whole pixels.
        assert x1 - x0 > 0.3 * 160 - 1 and y1 - y0 > 0.3 * 120 - 1
        assert 0.5 - 0.03 < (y1 - y0) / (x1 - x0) < 2 + 0.06
        assert centers_inside(np.array(boxes, float), window).any()


@pytest.mark.parametrize("minimum", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_crop_has_the_minimum_iou_with_every_box(minimum, monkeypatch):
    boxes = np.array([[6.0, 5.0, 152.0, 116.0], [9.0, 7.0, 155.0, 118.0]])
    monkeypatch.setattr(np.random, "randint", lambda n: 1)  # always the minimum IoU
    ious = np.array([iou(window, boxes).min() for window in crops(boxes, 25, min_ious=[minimum])])
    assert ious.min() >= minimum
    assert ious.min() < minimum + 0.15  # and not much more


def test_one_image_in_seven_is_not_cropped():
    is_uncropped = [window is None for window in crops(NO_BOXES, 2000)]
    assert abs(np.mean(is_uncropped) - 1 / 7) < 0.025


def test_another_minimum_iou_is_drawn_if_no_window_reaches_the_first():
    """No window has an IoU of .9 with both of two boxes in opposite corners."""
    corners = np.array([[0.0, 0.0, 30.0, 30.0], [130.0, 90.0, 160.0, 120.0]])
    windows = list(crops(corners, 60, min_ious=[0.9]))
    assert any(window is None for window in windows)
    assert all(window is None or centers_inside(corners, window).any() for window in windows)


def test_the_crop_fails_if_the_mapper_does_not_pass_the_boxes():
    with pytest.raises(ValueError, match="boxes: expected an array .G, 4., as BoxMapper passes it"):
        T.AugmentationList([MinIoURandomCrop()])(T.AugInput(random_image()))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PhotometricDistortion(brightness=-1), "brightness: .* of at least 0, got -1"),
        (
            lambda: PhotometricDistortion(contrast=(2, 1)),
            r"contrast: expected two .*got \(2, 1\)",
        ),
        (lambda: PhotometricDistortion(prob=2), r"prob: expected a number in \[0, 1\], got 2"),
        (lambda: Expand(MEAN, ratio=(0.5, 2)), r"ratio: expected two ascending numbers >= 1"),
        (
            lambda: (
                Expand((1, 2), prob=1).get_transform(random_image()).apply_image(random_image())
            ),
            r"color: expected 3 channels, got \(1, 2\)",
        ),
        (
            lambda: MinIoURandomCrop(min_ious=[0.0]),
            r"min_ious: expected a number in \(0, 1\], got 0.0",
        ),
        (lambda: MinIoURandomCrop(min_size=0), r"min_size: expected a number in \(0, 1\], got 0"),
        (
            lambda: BoxMapper(augmentations=[], image_format="RGB", min_side=-1),
            "min_side: expected a number of at least 0, got -1",
        ),
    ],
)
def test_the_error_names_the_invalid_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def write(tmp_path, boxes, crowd=(), size=(120, 160)):
    """Write a gray image with a filled rectangle of another shade for each box; return its dict."""
    image = np.full((*size, 3), 128, np.uint8)
    for i, (x0, y0, x1, y1) in enumerate(boxes):
        image[int(y0) : int(y1), int(x0) : int(x1)] = (255, 60 * i, 0)
    path = tmp_path / "image.png"
    Image.fromarray(image).save(path)
    annotations = [
        {
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": i,
            "iscrowd": int(i in crowd),
        }
        for i, (x0, y0, x1, y1) in enumerate(boxes)
    ]
    return {
        "file_name": str(path),
        "image_id": 7,
        "height": size[0],
        "width": size[1],
        "annotations": annotations,
    }


def test_boxes_follow_the_image_and_keep_their_class(tmp_path):
    """The augmentation moves a rectangle, and its box bounds the visible part."""
    boxes = [(10, 10, 60, 50), (70, 20, 150, 60), (20, 70, 90, 110), (100, 80, 150, 115)]
    record = write(tmp_path, boxes)
    before = copy.deepcopy(record)
    mapper = BoxMapper(augmentations=augmentation()[1:], image_format="RGB")
    counts = []
    for _ in range(40):
        result = mapper(record)
        assert result["image"].shape == (3, 512, 512) and result["image"].dtype == torch.uint8
        assert "annotations" not in result and result["image_id"] == 7
        instances = result["instances"]
        counts.append(len(instances))
        red, green, blue = result["image"].int()
        for box, label in zip(instances.gt_boxes, instances.gt_classes.tolist()):
            rectangle = (red > 240) & (blue < 15) & ((green - 60 * label).abs() < 25)
            ys, xs = torch.nonzero(rectangle, as_tuple=True)
            bounds = torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
            # Enlarging blurs the edges over about a pixel of the original.
            blur = 512 / 0.3 / 120
            assert (box - bounds).abs().max() < blur, (box, bounds)
            assert box.min() >= 0 and box.max() <= 512
    assert record == before
    assert min(counts) < 4 and max(counts) == 4


def crop(x0, y0, x1, y1):
    return T.CropTransform(x0, y0, x1 - x0, y1 - y0)


def test_an_object_is_kept_if_its_center_is_inside_the_crop(tmp_path):
    record = write(tmp_path, [(0, 40, 59, 60), (0, 40, 61, 60), (0, 40, 60, 60), (50, 40, 90, 60)])
    mapper = BoxMapper(augmentations=[crop(30, 0, 100, 120)], image_format="RGB")
    instances = mapper(record)["instances"]
    assert instances.gt_classes.tolist() == [1, 3]
    assert instances.gt_boxes.tensor.tolist() == [[0, 40, 31, 60], [20, 40, 60, 60]]
    assert instances.image_size == (120, 70)


def test_objects_below_the_smallest_side_are_dropped_and_counted(tmp_path):
    record = write(tmp_path, [(0, 40, 0.5, 60), (0, 0, 9, 9), (5, 5, 6, 5.5)], crowd=[2])
    mapper = BoxMapper(augmentations=[], image_format="RGB")
    assert mapper(record)["instances"].gt_boxes.tensor.tolist() == [[0, 0, 9, 9]]
    assert mapper.count_dropped([record, record]) == 2  # without the crowd


def test_the_canvas_of_an_expanded_float_image_has_the_exact_mean():
    image = random_image().astype(np.float32)
    larger = ColorPadTransform(2, 1, 3, 4, MEAN).apply_image(image)
    assert larger.dtype == np.float32 and larger.shape == (125, 165, 3)
    assert np.array_equal(larger[0, 0], np.float32(MEAN))


def test_a_crop_has_the_minimum_iou_with_crowds(tmp_path, monkeypatch):
    """The object is on the left and the crowd on the right."""
    record = write(tmp_path, [(0, 0, 80, 120), (70, 0, 160, 120)], crowd=[1])
    monkeypatch.setattr(np.random, "randint", lambda n: 1)  # always the minimum IoU
    aug, crops = MinIoURandomCrop(min_ious=[0.3]), []
    record_transforms(aug, crops)
    mapper = BoxMapper(augmentations=[aug], image_format="RGB")
    boxes = np.array([[0.0, 0, 80, 120], [70, 0, 160, 120]])
    classes = [mapper(record)["instances"].gt_classes.tolist() for _ in range(30)]
    for crop in crops:
        window = np.array([crop.x0, crop.y0, crop.x0 + crop.w, crop.y0 + crop.h], float)
        assert iou(window, boxes).min() >= 0.3
    assert all(labels in ([], [0]) for labels in classes) and [0] in classes


def test_detectron2s_mapper_and_boxmapper_accept_float_images_and_masks(tmp_path):
    record = write(tmp_path, [(10, 10, 60, 50)])
    record["annotations"][0]["segmentation"] = [[10, 10, 60, 10, 60, 50, 10, 50]]
    chain = [PhotometricDistortion(), Expand(MEAN), T.Resize((64, 64)), T.RandomFlip()]
    options = {"augmentations": chain, "image_format": "RGB"}
    stock = DatasetMapper(is_train=True, use_instance_mask=True, **options)
    for mapper in (stock, BoxMapper(masks=True, **options)):
        for _ in range(5):
            result = mapper(record)
            assert result["image"].dtype == torch.float32
            assert result["image"].shape == (3, 64, 64)
            masks = result["instances"].gt_masks
            assert len(masks) == 1 and masks.nonempty().all()


def test_the_mapper_drops_crowds_and_boxes_thinner_than_a_pixel(tmp_path):
    boxes = [(10, 10, 50, 50), (20, 20, 20.9, 60), (20, 20, 21, 60), (60, 60, 90, 90)]
    record = write(tmp_path, boxes, crowd=[3])
    mapper = BoxMapper(augmentations=[], image_format="RGB")
    assert mapper(record)["instances"].gt_classes.tolist() == [0, 2]


@pytest.mark.parametrize("annotated", [True, False])
def test_an_image_without_objects_gives_empty_instances(tmp_path, annotated):
    record = write(tmp_path, [])
    if not annotated:
        record.pop("annotations")
    mapper = BoxMapper(augmentations=augmentation(), image_format="BGR")
    for _ in range(20):
        instances = mapper(record)["instances"]
        assert instances.gt_boxes.tensor.shape == (0, 4)
        assert instances.gt_classes.dtype == torch.int64 and len(instances) == 0


def test_the_same_seed_gives_the_same_image(tmp_path):
    record = write(tmp_path, [(10, 10, 60, 50)])
    mapper = BoxMapper(augmentations=augmentation(), image_format="RGB")
    images = []
    for _ in range(2):
        np.random.seed(3)
        images.append(mapper(record)["image"])
    assert torch.equal(*images)
