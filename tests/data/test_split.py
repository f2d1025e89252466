"""The random train/validation split keeps copies of an image on one side."""

from collections import Counter
from itertools import chain

import numpy
import pytest
from PIL import Image

from ranking_det.data.split import group_by_name, join_near, split_images, subset
from ranking_det.user_errors import UserError
from tests.data.formats import cases


def make_set(root, classes, names=None):
    """Write an image for each tuple of classes; return the content of their COCO JSON."""
    names = names or [f"{i}.jpg" for i in range(len(classes))]
    for i, name in enumerate(names):
        cases.make_image(root / name, seed=i)
    ids = {name: k for k, name in enumerate(sorted({*chain(*classes)}), 1)}
    objects = [(i, ids[name]) for i, labels in enumerate(classes) for name in labels]
    return {
        "images": [
            {"id": i, "file_name": name, "width": 64, "height": 48} for i, name in enumerate(names)
        ],
        "annotations": [
            {"id": a, "image_id": i, "category_id": k, "bbox": [1, 1, 5, 5]}
            for a, (i, k) in enumerate(objects)
        ],
        "categories": [{"id": k, "name": name} for name, k in ids.items()],
    }


def test_group_by_name_recognizes_exports_augmentations_and_copies():
    names = [
        "x/IMG_1_jpg.rf.0123456789abcdef.jpg",
        "x/IMG_1_jpg.rf.fedcba9876543210.jpg",
        "y/IMG_1_jpg.rf.fedcba9876543210.jpg",
        "x/b.png",
        "x/b_aug3.jpg",
        "x/b - Copy.png",
        "x/b_hflip.png",
        "x/b (2).png",
    ]
    assert group_by_name(names) == [0, 0, 1, 2, 2, 2, 2, 2]


def test_numbers_in_parentheses_do_not_mark_copies_without_an_original():
    assert group_by_name(["cat (1).jpg", "cat (2).jpg", "cat 1.jpg"]) == [0, 1, 2]


def test_join_near_joins_hashes_that_differ_in_at_most_the_given_number_of_bits():
    bits = numpy.where(numpy.random.default_rng(0).random((40, 8, 64)) < 0.5, 1, -1)
    bits[7, 3] = bits[30, 0]
    bits[7, 3, :5] *= -1
    hashes, singletons = bits.astype(numpy.float32), list(range(40))
    assert join_near(singletons, hashes, 5) == [7 if i == 30 else i for i in singletons]
    assert join_near(singletons, hashes, 4) == singletons
    # Groups by name are joined as a whole.
    by_name = [3 if i in (29, 30) else i for i in singletons]
    assert join_near(by_name, hashes, 5) == [3 if i in (7, 29, 30) else i for i in singletons]
    # The hashes of unreadable files, all 0, match nothing, not even each other.
    hashes[:] = 0
    assert join_near(singletons, hashes, 5) == singletons


def test_subset_keeps_categories_and_the_objects_of_its_images():
    content = cases.coco_content(["a.jpg", "b.jpg"])
    part = subset(content, ["1"])
    assert cases.objects_of(part) == cases.expected_objects("b.jpg")
    assert part["categories"] == content["categories"]
    assert len(content["images"]) == 2


class TestSplit:
    @pytest.fixture(autouse=True)
    def _needs_imagehash(self):
        pytest.importorskip("imagehash")

    def test_a_share_of_each_class_goes_to_validation(self, tmp_path):
        classes = [("common",)] * 30 + [("common", "rare")] * 10 + [()] * 10
        content = make_set(tmp_path, classes)
        split = split_images(content, str(tmp_path))
        counts = Counter(classes[i] for i in split.val)
        assert counts == {("common",): 6, ("common", "rare"): 2, (): 2}
        assert sorted(split.train + split.val) == list(range(50))

    def test_the_seed_determines_the_split(self, tmp_path):
        content = make_set(tmp_path, [("cat",)] * 20)
        first, again, other = (split_images(content, str(tmp_path), seed=s) for s in (1, 1, 2))
        assert first == again
        assert first.val != other.val
        assert first.record["seed"] == 1
        assert first.record["val"] == [f"{i}.jpg" for i in first.val]

    def test_the_split_does_not_depend_on_the_order_of_the_file(self, tmp_path):
        content = make_set(tmp_path, [("cat",)] * 20)
        shuffled = {**content, "images": content["images"][::-1]}
        pair = [split_images(data, str(tmp_path)).record for data in (content, shuffled)]
        assert pair[0] == pair[1]

    def test_the_only_image_of_a_class_stays_in_training(self, tmp_path):
        content = make_set(tmp_path, [("cat",)] * 3 + [("rare",)])
        for seed in range(10):
            split = split_images(content, str(tmp_path), share=0.5, seed=seed)
            assert 3 in split.train
            assert split.val

    def test_one_of_two_images_goes_to_validation(self, tmp_path):
        split = split_images(make_set(tmp_path, [("cat",)] * 2), str(tmp_path))
        assert (len(split.train), len(split.val)) == (1, 1)

    @pytest.mark.parametrize("classes", [[("cat",)], [("cat",), ("dog",)]])
    def test_a_data_set_with_one_image_per_class_raises_user_error(self, tmp_path, classes):
        content = make_set(tmp_path, classes)
        with pytest.raises(UserError, match="cannot be split .* give validation images with --val"):
            split_images(content, str(tmp_path))

    def test_augmented_versions_of_an_image_stay_on_one_side(self, tmp_path):
        names = [f"{i}.rf.{j}0abcdef.jpg" for i in range(10) for j in range(3)]
        content = make_set(tmp_path, [("cat",)] * 30, names)
        split = split_images(content, str(tmp_path))
        assert sorted(Counter(i // 3 for i in split.val).values()) == [3, 3]
        assert "judging by file names, the 30 images are versions of 10 originals" in split.lines

    def test_modified_copies_with_other_names_stay_on_one_side(self, tmp_path):
        content = make_set(tmp_path, [("cat",)] * 40)
        for i in range(10):
            with Image.open(tmp_path / f"{i}.jpg") as image:
                changed = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((100, 75))
                changed = changed.point(lambda value: value * 0.8)
                changed.save(tmp_path / f"{20 + i}.jpg", quality=60)
                image.rotate(90, expand=True).save(tmp_path / f"{30 + i}.jpg")
        for seed in range(5):
            val = set(split_images(content, str(tmp_path), seed=seed).val)
            for i in range(10):
                assert len({i in val, 20 + i in val, 30 + i in val}) == 1

    def test_only_exact_duplicates_stay_together_if_most_images_look_alike(self, tmp_path):
        content = make_set(tmp_path, [("cat",)] * 20)
        with Image.open(tmp_path / "0.jpg") as image:
            first = image.convert("RGB")
        for i in range(20):
            changed = first.copy()
            changed.paste((255, 0, 0), (i, i, i + 9, i + 9))
            changed.save(tmp_path / f"{i}.jpg")
        split = split_images(content, str(tmp_path))
        assert len(split.val) >= 1

    def test_the_split_includes_unreadable_and_missing_images(self, tmp_path):
        content = make_set(tmp_path, [("cat",)] * 10)
        (tmp_path / "1.jpg").write_bytes(b"")
        (tmp_path / "2.jpg").unlink()
        split = split_images(content, str(tmp_path))
        assert len(split.train) + len(split.val) == 10
