"""Masks for training: polygons and RLE follow the augmentation and stay with their boxes."""

import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, BoxMode, PolygonMasks
from PIL import Image
from pycocotools import mask as mask_util

from ranking_det.data.mapper import BoxMapper, transform_masks

SQUARE = [[4, 4, 20, 4, 20, 16, 4, 16]]


def rle(box, size=(24, 32)):
    x0, y0, x1, y1 = box
    mask = np.zeros(size, np.uint8)
    mask[y0:y1, x0:x1] = 1
    return mask_util.encode(np.asfortranarray(mask))


FLIP_AND_DOUBLE = T.TransformList([T.HFlipTransform(32), T.ResizeTransform(24, 32, 48, 64)])


def pixels(masks, size=(48, 64)):
    """Rasterize polygon masks or bitmaps to (G, H, W) bool."""
    if isinstance(masks, BitMasks):
        return masks.tensor
    whole_image = torch.tensor([[0.0, 0.0, size[1], size[0]]] * len(masks))
    side = max(size)
    bitmaps = masks.crop_and_resize(whole_image, side)
    rows = torch.linspace(0.5, side - 0.5, size[0]).long()
    return bitmaps[:, rows]


def test_polygons_and_rle_follow_the_image_and_may_be_mixed():
    size = (48, 64)
    polygons = transform_masks([SQUARE, SQUARE], FLIP_AND_DOUBLE, size)
    mixed = transform_masks([SQUARE, rle((4, 4, 20, 16))], FLIP_AND_DOUBLE, size)
    assert isinstance(polygons, PolygonMasks) and isinstance(mixed, BitMasks)
    expected = torch.zeros(size, dtype=torch.bool)
    expected[8:32, 24:56] = True
    for masks in (polygons, mixed):
        for bitmap in pixels(masks):
            assert (bitmap != expected).sum() <= 2 * (24 + 32)  # a pixel along the edges


@pytest.mark.parametrize(
    "segmentation",
    [None, [], [[1, 1, 5, 5]], [[1, 1, 5, 5, 9]], [[3, 3, 3, 3, 3, 3]], [[1, 1, 5, 1, 9, 1]]],
)
@pytest.mark.parametrize("neighbor", [SQUARE, rle((4, 4, 20, 16))])
def test_a_mask_without_area_becomes_empty_and_can_be_cropped(segmentation, neighbor):
    masks = transform_masks([segmentation, neighbor], FLIP_AND_DOUBLE, (48, 64))
    boxes = torch.tensor([[0.0, 0.0, 64.0, 48.0], [20.0, 4.0, 60.0, 40.0]])
    cropped = masks[torch.tensor([0, 1])].crop_and_resize(boxes, 28)
    assert cropped.shape == (2, 28, 28)
    assert cropped[0].sum() <= 28 and cropped[1].sum() > 100


def write(folder, *annotations):
    Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(folder / "image.png")
    objects = [
        {"bbox_mode": BoxMode.XYWH_ABS, "category_id": k, "bbox": [4, 4, 16, 12], **annotation}
        for k, annotation in enumerate(annotations)
    ]
    path = str(folder / "image.png")
    return {"file_name": path, "height": 24, "width": 32, "annotations": objects}


def test_masks_stay_with_their_boxes_when_objects_are_dropped(tmp_path):
    item = write(
        tmp_path,
        {"segmentation": SQUARE, "bbox": [0, 0, 0.5, 9]},  # thinner than a pixel
        {"segmentation": SQUARE, "iscrowd": 1},
        {"segmentation": rle((2, 2, 6, 6)), "bbox": [2, 2, 4, 4]},  # the crop cuts off its center
        {"segmentation": SQUARE},
        {"segmentation": rle((10, 8, 30, 20)), "bbox": [10, 8, 20, 12]},
    )
    crop = T.CropTransform(8, 0, 24, 24)
    instances = BoxMapper(augmentations=[crop], image_format="RGB", masks=True)(item)["instances"]
    assert instances.gt_classes.tolist() == [3, 4]
    boxes, masks = instances.gt_boxes.tensor, instances.gt_masks
    assert (masks.get_bounding_boxes().tensor - boxes).abs().max() <= 1
    assert not BoxMapper(augmentations=[], image_format="RGB")(item)["instances"].has("gt_masks")


def test_an_image_without_objects_has_empty_masks(tmp_path):
    instances = BoxMapper(augmentations=[], image_format="RGB", masks=True)(write(tmp_path))
    assert len(instances["instances"].gt_masks) == 0
