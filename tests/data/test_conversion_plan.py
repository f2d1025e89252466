"""Plan the conversion of a custom data set in memory; write it once to the output folder."""

import json
import os

import pytest

from ranking_det.data.coco_json.reader import ReadOptions, read_annotations
from ranking_det.data.conversion_plan import plan_conversion
from ranking_det.user_errors import UserError
from tests.data.formats import cases

RECT = {"name": "rect", "x": 1, "y": 2, "width": 3, "height": 4}


def write_plan(*sources_and_output, **options):
    """Plan a data set and write it; return the plan."""
    plan = plan_conversion(*map(lambda path: path and str(path), sources_and_output), **options)
    plan.write()
    return plan


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_plan_writes_nothing_until_write_is_called(tmp_path):
    cases.voc_set(tmp_path / "set")
    plan = plan_conversion(str(tmp_path / "set"), None, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    plan.write()
    assert files_below(tmp_path / "run") == [
        "data/ranking_det.json",
        "data/train.json",
        "data/val.json",
    ]


def test_the_written_files_pass_the_reader(tmp_path):
    cases.voc_set(tmp_path / "set")
    plan = write_plan(str(tmp_path / "set"), None, str(tmp_path / "run"))
    assert plan.lines[0] == "found: Pascal VOC, 2 train and 2 val images, 2 classes"
    for side in (plan.train, plan.val):
        annotations = read_annotations(side.json_file, side.image_root)
        assert (len(annotations.images), len(annotations.annotations)) == (2, 4)
        assert [category["name"] for category in annotations.categories] == ["cat", "dog"]


def test_coco_files_are_used_without_conversion(tmp_path):
    cases.coco_set(tmp_path / "set")
    plan = write_plan(str(tmp_path / "set"), None, str(tmp_path / "run"))
    assert plan.train.json_file == str(tmp_path / "set" / "train" / "_annotations.coco.json")
    assert plan.val.image_root == str(tmp_path / "set" / "valid")
    assert files_below(tmp_path / "run") == ["data/ranking_det.json"]


def test_output_folders_of_earlier_runs_inside_the_source_are_skipped(tmp_path):
    cases.voc_set(tmp_path / "set")
    for run in ("run1", "run2"):
        plan = write_plan(tmp_path / "set", None, tmp_path / "set" / run)
        assert plan.lines[0] == "found: Pascal VOC, 2 train and 2 val images, 2 classes"
    write_plan(tmp_path / "set", None, tmp_path / "set")
    assert plan_conversion(str(tmp_path / "set"), None, str(tmp_path / "set")).is_written


def test_a_source_with_only_a_test_split_raises_user_error(tmp_path):
    cases.voc_set(tmp_path / "set", lists=("test",))
    with pytest.raises(UserError, match=r"no training images \(it has test\); give the folder of"):
        plan_conversion(str(tmp_path / "set"), None, str(tmp_path / "run"))


def test_train_and_val_may_be_different_folders_and_share_category_ids(tmp_path):
    cases.voc_set(tmp_path / "a", lists=("train",))
    cases.make_image(tmp_path / "b" / "x.jpg")
    cases.write_text(tmp_path / "b" / "x.xml", cases.voc_text([("dog", 1, 2, 3, 4)]))
    plan = write_plan(str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "run"))
    contents = [
        json.loads(open(path).read()) for path in (plan.train.json_file, plan.val.json_file)
    ]
    assert contents[0]["categories"] == contents[1]["categories"]
    assert cases.objects_of(contents[1]) == [("x.jpg", "dog", (1, 2, 3, 4))]


def test_val_uses_the_test_split_if_there_is_no_val_split(tmp_path):
    root = str(cases.voc_set(tmp_path / "set", lists=("train", "test")))
    plan = plan_conversion(root, root, str(tmp_path / "run"))
    names = [image["file_name"] for image in plan.val.content["images"]]
    assert names == ["JPEGImages/2.jpg", "JPEGImages/3.jpg"]


def test_a_plan_for_evaluation_needs_only_validation_images(tmp_path):
    cases.voc_set(tmp_path / "set")
    plan = plan_conversion(None, str(tmp_path / "set"), str(tmp_path / "run"))
    assert plan.train is None
    assert len(plan.val.content["images"]) == 2


def test_a_file_in_a_folder_named_valid_may_be_the_training_set(tmp_path):
    cases.coco_set(tmp_path / "set")
    files = [
        str(tmp_path / "set" / split / "_annotations.coco.json") for split in ("train", "valid")
    ]
    plan = plan_conversion(files[1], files[0], str(tmp_path / "run"))
    assert (plan.train.json_file, plan.val.json_file) == (files[1], files[0])


def test_the_same_images_for_training_and_validation_raise_user_error(tmp_path):
    file = str(cases.coco_set(tmp_path / "set") / "train")
    with pytest.raises(UserError, match="the same images for training and validation"):
        plan_conversion(file, file, str(tmp_path / "run"))


def test_a_source_without_training_images_raises_user_error(tmp_path):
    root = cases.voc_set(tmp_path / "set", lists=("val", "test"))
    with pytest.raises(UserError, match=r"has no training images \(it has val, test\)"):
        plan_conversion(str(root), None, str(tmp_path / "run"))


def test_regions_without_a_class_take_the_only_class_of_the_other_split(tmp_path):
    cases.via_file(tmp_path / "a" / "via.json", [cases.via_region(RECT, kind="bug")])
    cases.via_file(tmp_path / "b" / "via.json", [cases.via_region(RECT)])
    plan = plan_conversion(str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "run"))
    assert cases.objects_of(plan.val.content) == [("1.jpg", "bug", (1, 2, 3, 4))]


@pytest.mark.parametrize(
    ("name", "hint"),
    [("Cat", r" \(did you mean 'cat'\?\)"), ("aardvark", r" \(known: cat, dog\)")],
)
def test_a_validation_class_that_training_lacks_raises_user_error(tmp_path, name, hint):
    cases.voc_set(tmp_path / "set")
    text = cases.voc_text([(name, 1, 2, 3, 4)])
    cases.write_text(tmp_path / "set" / "Annotations" / "3.xml", text)
    message = rf"3.xml, object 1: expected a class of {tmp_path}/set, got '{name}'{hint}"
    with pytest.raises(UserError, match=message):
        plan_conversion(str(tmp_path / "set"), None, str(tmp_path / "run"))


def test_validation_may_have_fewer_classes_and_classes_without_objects(tmp_path):
    description = "train: images/train\nval: images/val\nnames: [cat, dog, bird]\n"
    cases.yolo_set(tmp_path / "a", description)
    cases.yolo_set(tmp_path / "b", "train: images/train\nval: images/val\nnames: [dog, cow]\n")
    for split in ("train", "val"):
        for i in range(2):
            path = tmp_path / "b" / "labels" / split / f"{split}{i}.txt"
            cases.write_text(path, cases.yolo_line(0, (1, 2, 3, 4)))
    plan = plan_conversion(str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "run"))
    assert plan.val.content["categories"] == plan.train.content["categories"]
    names = [category["name"] for category in plan.val.content["categories"]]
    assert names == ["cat", "dog", "bird"]
    assert {name for _, name, _ in cases.objects_of(plan.val.content)} == {"dog"}


def test_left_out_objects_are_listed_as_faults(tmp_path):
    cases.voc_set(tmp_path / "set")
    text = cases.voc_text([("", 1, 2, 3, 4), ("cat", 1, 2, 3, 4)])
    cases.write_text(tmp_path / "set" / "Annotations" / "3.xml", text)
    plan = plan_conversion(str(tmp_path / "set"), None, str(tmp_path / "run"))
    (fault,) = plan.faults
    assert (fault.place, fault.kind, fault.action) == ("object 1", "no class", "left out")


def test_strict_rejects_faulty_objects_even_after_an_earlier_conversion(tmp_path):
    cases.voc_set(tmp_path / "set")
    text = cases.voc_text([("", 1, 2, 3, 4), ("cat", 1, 2, 3, 4)])
    cases.write_text(tmp_path / "set" / "Annotations" / "3.xml", text)
    write_plan(tmp_path / "set", None, tmp_path / "run")
    for options in (ReadOptions(strict=True), ReadOptions(max_faults=0)):
        with pytest.raises(UserError, match="expected a <name>, got none; --"):
            plan_conversion(str(tmp_path / "set"), None, str(tmp_path / "run"), options=options)


def test_a_conversion_is_reused_unless_its_source_has_changed(tmp_path):
    root = cases.voc_set(tmp_path / "set")
    write_plan(str(root), None, str(tmp_path / "run"))
    file = tmp_path / "run" / "data" / "train.json"
    before = file.stat().st_mtime_ns
    repeated_plan = plan_conversion(str(root), None, str(tmp_path / "run"))
    assert repeated_plan.is_written and repeated_plan.faults == [] and repeated_plan.record is None
    assert ": its source files have not changed" in repeated_plan.lines[-1]
    repeated_plan.write()
    assert file.stat().st_mtime_ns == before
    path = cases.write_text(root / "Annotations" / "0.xml", cases.voc_text([("cat", 1, 2, 3, 4)]))
    os.utime(path, ns=(1, 1))
    assert not plan_conversion(str(root), None, str(tmp_path / "run")).is_written


def test_an_unfinished_conversion_is_repeated(tmp_path):
    root = cases.voc_set(tmp_path / "set")
    write_plan(str(root), None, str(tmp_path / "run"))
    (tmp_path / "run" / "data" / "ranking_det.json").unlink()
    assert not plan_conversion(str(root), None, str(tmp_path / "run")).is_written


def test_an_output_folder_inside_the_source_does_not_count_as_a_change(tmp_path):
    root = cases.voc_set(tmp_path / "set")
    write_plan(str(root), None, str(root / "output"))
    assert plan_conversion(str(root), None, str(root / "output")).is_written


def test_repeated_conversions_write_the_same_bytes(tmp_path):
    root = cases.yolo_set(tmp_path / "set")
    for run in ("a", "b"):
        write_plan(str(root), None, str(tmp_path / run))
    pair = [(tmp_path / run / "data" / "train.json").read_bytes() for run in ("a", "b")]
    assert pair[0] == pair[1]


def test_a_data_set_without_validation_images_is_split(tmp_path):
    pytest.importorskip("imagehash")
    root = cases.voc_set(tmp_path / "set", lists=("train", "test"), per_split=10)
    plan = write_plan(str(root), None, str(tmp_path / "run"), seed=3)
    record = json.loads((tmp_path / "run" / "data" / "split.json").read_text())
    assert (record["seed"], record["share"]) == (3, 0.2)
    sides = [json.loads(open(path).read()) for path in (plan.train.json_file, plan.val.json_file)]
    assert [len(side["images"]) for side in sides] == [8, 2]
    names = [[image["file_name"] for image in side["images"]] for side in sides]
    assert names == [record["train"], record["val"]]
    repeated_plan = plan_conversion(str(root), None, str(tmp_path / "run"), seed=3)
    assert repeated_plan.is_written and repeated_plan.record == plan.record == record
    expected = "no validation set: split off 2 of 10 images"
    assert any(line.startswith(expected) for line in plan.lines)


def test_a_coco_file_without_validation_images_is_split(tmp_path):
    pytest.importorskip("imagehash")
    root = cases.coco_set(tmp_path / "set", splits=("train",), per_split=5)
    plan = write_plan(str(root), None, str(tmp_path / "run"))
    sides = [read_annotations(*side[:2]) for side in (plan.train, plan.val)]
    assert [len(side.images) for side in sides] == [4, 1]


def test_the_same_images_by_another_path_raise_user_error(tmp_path):
    root = cases.voc_set(tmp_path / "set", lists=("train",))
    (tmp_path / "link").symlink_to(root)
    for val in (f"{root}/", tmp_path / "link"):
        with pytest.raises(UserError, match="the same images for training and validation"):
            plan_conversion(str(root), str(val), str(tmp_path / "run"))


def test_validation_images_that_are_training_images_too_are_counted(tmp_path):
    root = cases.voc_set(tmp_path / "set", lists=("train",))
    val = cases.voc_set(tmp_path / "val", lists=("val",), per_split=3)
    (val / "JPEGImages" / "0.jpg").unlink()
    (val / "JPEGImages" / "0.jpg").symlink_to(root / "JPEGImages" / "0.jpg")
    plan = plan_conversion(str(root), str(val), str(tmp_path / "run"))
    assert plan.lines[-1].startswith(
        "training images among the validation images: 1 of 3, such as "
    )


def test_a_conversion_with_labels_outside_the_source_is_never_reused(tmp_path):
    root = cases.yolo_set(tmp_path / "set", None)
    write_plan(str(root / "images"), None, str(tmp_path / "run"))
    cases.write_text(root / "labels" / "train" / "train0.txt", cases.yolo_line(0, (1, 2, 3, 4)))
    plan = plan_conversion(str(root / "images"), None, str(tmp_path / "run"))
    assert not plan.is_written and len(plan.train.content["annotations"]) == 3
