"""Content of the generated shapes data set: images, boxes, masks and classes."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from ranking_det.data.shapes import CATEGORIES, prepare_shapes
from ranking_det.data.shapes.generate import Settings, write_set
from ranking_det.data.shapes.mask_annotations import polygon_annotation, remove_small_pieces


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Generate 60 + 8 images of 128 pixels."""
    return prepare_shapes(tmp_path_factory.mktemp("datasets"), train=60, val=8, size=128, seed=3)


@pytest.fixture(scope="module")
def coco(folder):
    return COCO(str(folder / "annotations" / "instances_train.json"))


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def generate(folder, workers=1, **settings):
    folder.mkdir()
    write_set(folder, Settings(**{"train": 6, "val": 3, "size": 64} | settings), workers)
    return contents(folder)


@pytest.mark.parametrize("variant", ["shapes", "shapes_lvis"])
def test_the_same_seed_gives_the_same_bytes_with_any_number_of_workers(tmp_path, variant):
    one = generate(tmp_path / "one", workers=1, variant=variant)
    assert len(one) == 6 + 3 + 3
    assert generate(tmp_path / "four", workers=4, variant=variant) == one


def test_another_seed_gives_different_images_and_annotations(tmp_path):
    one, other = generate(tmp_path / "one"), generate(tmp_path / "other", seed=1)
    assert one.keys() == other.keys()
    assert all(one[name] != other[name] for name in one)


def test_an_image_does_not_depend_on_the_number_of_images(tmp_path):
    few, more = generate(tmp_path / "few"), generate(tmp_path / "more", train=9)
    images = [name for name in few if name.endswith(".jpg")]
    assert len(images) == 9
    assert all(few[name] == more[name] for name in images)


def test_splits_and_variants_share_no_image(tmp_path):
    plain = generate(tmp_path / "plain")
    long_tailed = generate(tmp_path / "lvis", variant="shapes_lvis")
    images = [v for files in (plain, long_tailed) for k, v in files.items() if k.endswith("jpg")]
    assert len(set(images)) == len(images) == 18


def test_every_image_exists_in_the_requested_size(folder, coco):
    assert len(coco.imgs) == 60 and len(list((folder / "train").iterdir())) == 60
    assert len(list((folder / "val").iterdir())) == 8
    for image in coco.imgs.values():
        with Image.open(folder / "train" / image["file_name"]) as file:
            assert file.size == (image["width"], image["height"]) == (128, 128)


def test_masks_agree_with_areas_and_boxes_and_do_not_overlap(coco):
    for image_id in coco.imgs:
        total = np.zeros((128, 128), int)
        for annotation in coco.imgToAnns[image_id]:
            mask = coco.annToMask(annotation)
            x, y, width, height = annotation["bbox"]
            rim = 0.25 * (width + height)
            assert abs(int(mask.sum()) - annotation["area"]) <= rim + 2
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            # A thin tip covers less than half of a pixel, so the mask ends before it.
            tight = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            assert np.abs(np.subtract(tight, [x, y, x + width, y + height])).max() <= 2
            assert 0 <= x and 0 <= y and x + width <= 128 and y + height <= 128
            total += mask
        # Polygons share their edges, where a pixel may belong to both.
        assert (total > 1).sum() <= 0.1 * (total > 0).sum() + 4


def test_an_image_has_0_or_2_to_15_objects_not_counting_crowds(coco):
    objects = Counter(a["image_id"] for a in coco.anns.values() if not a["iscrowd"])
    counts = [objects[image_id] for image_id in coco.imgs]
    assert min(n for n in counts if n) >= 2 and max(counts) <= 15
    assert 1 <= counts.count(0) <= 3


def test_crowds_are_few_and_have_uncompressed_rle(coco):
    crowds = [a for a in coco.anns.values() if a["iscrowd"]]
    assert 2 <= len(crowds) <= 5
    for crowd in crowds:
        assert isinstance(crowd["segmentation"]["counts"], list)
        assert coco.annToMask(crowd).sum() == crowd["area"]
    non_crowds = [a for a in coco.anns.values() if not a["iscrowd"]]
    assert all(isinstance(a["segmentation"], list) and a["segmentation"] for a in non_crowds)


def test_all_classes_occur_and_none_dominates(coco):
    counts = Counter(a["category_id"] for a in coco.anns.values())
    assert sorted(counts) == list(range(1, len(CATEGORIES["shapes"]) + 1))
    assert len(counts) >= 12 and max(counts.values()) <= 4 * min(counts.values())


def test_object_sizes_range_over_a_factor_of_ten(coco):
    sides = [max(a["bbox"][2:]) for a in coco.anns.values() if not a["iscrowd"]]
    assert max(sides) >= 10 * min(sides)
    assert np.quantile(sides, 0.95) >= 5 * np.quantile(sides, 0.05)


def test_color_does_not_reveal_the_class(folder, coco):
    """Mean colors of objects differ far less between classes than within one."""
    colors = {category: [] for category in coco.cats}
    for image in coco.imgs.values():
        pixels = np.asarray(Image.open(folder / "train" / image["file_name"])) / 255
        for annotation in coco.imgToAnns[image["id"]]:
            mask = coco.annToMask(annotation) > 0
            colors[annotation["category_id"]].append(pixels[mask].mean(0))
    means = np.array([np.mean(c, axis=0) for c in colors.values()])
    deviation_within = np.mean([np.std(c, axis=0) for c in colors.values()])
    assert means.std(0).max() < 0.5 * deviation_within


def test_ids_start_at_1_and_the_settings_are_in_meta_json(folder, coco):
    assert sorted(coco.anns) == list(range(1, len(coco.anns) + 1))
    assert sorted(coco.imgs) == list(range(1, 61))
    meta = json.loads((folder / "meta.json").read_text())
    assert (meta["train"], meta["val"], meta["size"], meta["seed"]) == (60, 8, 128, 3)


def test_polygons_follow_pieces_and_holes_within_a_quarter_of_a_pixel():
    mask = np.zeros((80, 120), bool)
    mask[8:48, 8:48] = True
    mask[20:36, 20:36] = False
    mask[60:72, 80:112] = True
    annotation = polygon_annotation(mask, (3, 5, 33, 25))
    assert annotation["bbox"] == [5, 7, 26, 16]
    assert annotation["area"] == (40 * 40 - 16 * 16 + 12 * 32) / 16
    polygons = [np.reshape(p, (-1, 2)) for p in annotation["segmentation"]]
    shoelace = [
        abs(np.sum(p[:, 0] * np.roll(p[:, 1], -1) - p[:, 1] * np.roll(p[:, 0], -1))) / 2
        for p in polygons
    ]
    assert len(polygons) == 3 and sum(shoelace) == annotation["area"]


def test_small_pieces_are_removed_and_small_holes_filled_but_the_last_piece_stays():
    mask = np.zeros((40, 40), bool)
    mask[5:30, 5:30] = True
    mask[10:12, 10:12] = False
    cleaned = remove_small_pieces(mask)
    assert cleaned.sum() == 25 * 25
    mask[36:38, 36:38] = True
    assert np.array_equal(remove_small_pieces(mask), cleaned)
    speck = np.zeros((8, 8), bool)
    speck[2, 3] = True
    assert np.array_equal(remove_small_pieces(speck), speck)
