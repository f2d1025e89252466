"""The command that converts data sets, with round trips through YOLO and Pascal VOC."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import strategies as st

from ranking_det.data.coco_json.faults import NOTED
from ranking_det.data.coco_json.image_files import UNROTATED
from ranking_det.data.coco_json.reader import read_annotations
from ranking_det.data.convert import main
from ranking_det.data.formats.sources import convert, find_source
from ranking_det.data.images import read_upright
from tests.data.cases import fuzz
from tests.data.formats import cases

SIZE = (64, 48)


def run(source, output, *flags):
    return main([str(source), "--output", str(output), *flags])


def read(path, split):
    return convert(find_source(str(path)), split).content


def assert_near(first, second, tolerance):
    assert [(image, name) for image, name, _ in first] == [
        (image, name) for image, name, _ in second
    ]
    for (*_, a), (*_, b) in zip(first, second):
        edges = [(x, y, x + w, y + h) for x, y, w, h in (a, b)]
        assert all(abs(p - q) <= tolerance for p, q in zip(*edges)), (a, b)


@st.composite
def boxes_in_image(draw):
    sides = []
    for size in SIZE:
        start = draw(st.floats(0, size - 1 / 64))
        sides.append((start, draw(st.floats(1 / 64, max(size - start, 1 / 64)))))
    return (sides[0][0], sides[1][0], sides[0][1], sides[1][1])


NAMES = st.lists(
    st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=8)
    .map(str.strip)
    .filter(bool),
    min_size=2,
    max_size=3,
    unique_by=str.casefold,
)


@pytest.mark.parametrize("examples", [12, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("target", "tolerance"), [("yolo", 1e-4), ("voc", 0.5 + 1e-3)])
def test_a_round_trip_preserves_boxes_class_names_and_splits(tmp_path, target, tolerance, examples):
    for split in ("train", "valid"):
        cases.make_image(tmp_path / "in" / split / f"{split} ä.jpg")

    def check(data):
        names, contents = data.draw(NAMES), {}
        for split in ("train", "valid"):
            # A file is rejected if all boxes are smaller than a pixel, so one covers the image.
            boxes = {name: data.draw(boxes_in_image()) for name in names} | {"whole": (0, 0, *SIZE)}
            contents[split] = cases.coco_content([f"{split} ä.jpg"], boxes)
            cases.write_json(tmp_path / "in" / split / "_annotations.coco.json", contents[split])
        for folder in ("converted", "restored"):
            shutil.rmtree(tmp_path / folder, ignore_errors=True)
        assert run(tmp_path / "in", tmp_path / "converted", "--to", target) == 0
        assert run(tmp_path / "converted", tmp_path / "restored") == 0
        for split, name in (("train", "train"), ("valid", "val")):
            file = tmp_path / "restored" / "annotations" / f"instances_{name}.json"
            content = json.loads(file.read_text())
            before, after = cases.objects_of(contents[split]), cases.objects_of(content)
            assert_near(before, after, tolerance)
            assert {category["name"] for category in content["categories"]} == {"whole", *names}

    fuzz(examples, check, st.data())


@pytest.mark.parametrize("target", ["coco", "yolo", "voc"])
@pytest.mark.parametrize("copy", [False, True])
def test_images_are_linked_by_default_and_copied_on_demand(tmp_path, target, copy):
    cases.coco_set(tmp_path / "in")
    flags = ["--copy"] if copy else []
    assert run(tmp_path / "in", tmp_path / "out", "--to", target, *flags) == 0
    images = [path for path in (tmp_path / "out").rglob("*.jpg")]
    assert len(images) == 4
    assert all(path.is_symlink() != copy and path.is_file() for path in images)


def test_voc_is_converted_to_coco_with_its_splits(tmp_path, capsys):
    cases.voc_set(tmp_path / "in", ("train", "val", "test"))
    assert run(tmp_path / "in", tmp_path / "out") == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "found: Pascal VOC, 2 train, 2 val and 2 test images, 2 classes"
    assert printed[-1] == f"written: {tmp_path}/out (COCO JSON, 2 train, 2 val, 2 test)"
    assert cases.objects_of(read(tmp_path / "out", "val")) == cases.expected_objects(
        "2.jpg", "3.jpg"
    )


def test_polygons_survive_the_round_trip_through_yolo(tmp_path):
    cases.make_image(tmp_path / "in" / "a.jpg")
    content = cases.coco_content(["a.jpg"])
    parts = [[10, 20, 40, 20, 40, 35], [10, 30, 12, 30, 12, 35, 10, 35]]
    content["annotations"][0]["segmentation"] = parts
    content["annotations"][1]["segmentation"] = [[0, 0, 64, 0, 64, 48, 0, 48]]
    cases.write_json(tmp_path / "in" / "a.json", content)
    assert run(tmp_path / "in", tmp_path / "out", "--to", "yolo") == 0
    restored = read(tmp_path / "out", "train")
    assert_near(cases.objects_of(content), cases.objects_of(restored), 1e-4)
    first, second = restored["annotations"]
    assert second["segmentation"] == [[0, 0, 64, 0, 64, 48, 0, 48]]
    # YOLO has one polygon per object, so lines of zero width join the parts.
    assert first["area"] == pytest.approx(225 + 10, abs=0.1)


def test_masks_and_crowds_that_the_target_format_lacks_are_reported(tmp_path, capsys):
    cases.make_image(tmp_path / "in" / "a.jpg")
    content = cases.coco_content(["a.jpg"])
    content["annotations"][0] |= {"segmentation": [[10, 20, 40, 20, 40, 35]]}
    content["annotations"][1]["iscrowd"] = 1
    content["annotations"].append(
        {"id": 9, "image_id": 0, "category_id": 7, "bbox": [60, 40, 10, 10], "iscrowd": 0}
    )
    cases.write_json(tmp_path / "in" / "a.json", content)
    assert run(tmp_path / "in", tmp_path / "voc", "--to", "voc") == 0
    printed = capsys.readouterr().out
    assert "masks left out because Pascal VOC has only boxes: 1" in printed
    assert "train: cut to under half: box clipped to its image: 1" in printed
    assert [a.get("ignore") for a in read(tmp_path / "voc", "train")["annotations"]] == [
        None,
        1,
        None,
    ]
    assert run(tmp_path / "in", tmp_path / "yolo", "--to", "yolo") == 0
    printed = capsys.readouterr().out
    assert "boxes are written, not polygons: 1 of 2 objects have no polygon" in printed
    assert "crowds or difficult objects left out because YOLO cannot mark them: 1" in printed


def test_images_with_the_same_name_in_two_splits_get_different_names(tmp_path):
    for split in ("train", "val"):
        cases.make_image(tmp_path / "in" / split / "1.jpg")
        cases.write_json(tmp_path / "in" / split / "x.json", cases.coco_content(["1.jpg"]))
    for target in ("yolo", "voc"):
        assert run(tmp_path / "in", tmp_path / target, "--to", target) == 0
        source = find_source(str(tmp_path / target))
        names = [
            Path(convert(source, split).content["images"][0]["file_name"]).name
            for split in source.splits
        ]
        assert names == ["train_1.jpg", "val_1.jpg"]


@pytest.mark.parametrize(
    ("box_format", "boxes"),
    [
        ("xyxy", {"cat": (10, 20, 40, 35), "dog": (0, 0, 64, 48)}),
        ("normalized", {"cat": (10 / 64, 20 / 48, 30 / 64, 15 / 48), "dog": (0, 0, 1, 1)}),
    ],
)
def test_the_flag_boxes_converts_corners_and_normalized_boxes(tmp_path, box_format, boxes):
    cases.make_image(tmp_path / "in" / "a.jpg")
    cases.write_json(tmp_path / "in" / "a.json", cases.coco_content(["a.jpg"], boxes))
    assert run(tmp_path / "in", tmp_path / "out", "--boxes", box_format) == 0
    content = read(tmp_path / "out", "train")
    assert_near(cases.objects_of(content), cases.expected_objects("a.jpg"), 1e-9)
    assert [a["area"] for a in content["annotations"]] == [450, 64 * 48]


@pytest.mark.parametrize(
    ("box_format", "message"),
    [
        ("xyxy", "2 of 2 boxes have no positive size when read as xyxy"),
        ("normalized", "2 of 2 boxes have numbers above 1 and are not normalized"),
    ],
)
def test_boxes_that_contradict_the_flag_boxes_are_rejected(tmp_path, capsys, box_format, message):
    cases.make_image(tmp_path / "in" / "a.jpg")
    content = cases.coco_content(["a.jpg"], {"cat": (30, 20, 10, 10), "dog": (20, 20, 9, 9)})
    cases.write_json(tmp_path / "in" / "a.json", content)
    assert run(tmp_path / "in", tmp_path / "out", "--boxes", box_format) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_flag_split_converts_only_one_split(tmp_path, capsys):
    cases.coco_set(tmp_path / "in")
    assert run(tmp_path / "in", tmp_path / "out", "--split", "val") == 0
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == ["annotations", "val"]
    assert run(tmp_path / "in", tmp_path / "out2", "--split", "test") == 2
    assert "--split test: " in capsys.readouterr().err


def test_an_existing_output_folder_is_rejected(tmp_path, capsys):
    cases.coco_set(tmp_path / "in")
    (tmp_path / "out").mkdir()
    assert run(tmp_path / "in", tmp_path / "out") == 2
    assert "already exists; remove it or choose another folder" in capsys.readouterr().err


def test_an_output_folder_inside_the_source_is_rejected(tmp_path, capsys):
    cases.coco_set(tmp_path / "in")
    assert run(tmp_path / "in", tmp_path / "in" / "out") == 2
    assert "expected a folder outside of" in capsys.readouterr().err


def test_an_error_while_writing_leaves_no_output_folder(tmp_path, monkeypatch, capsys):
    cases.coco_set(tmp_path / "in")

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("ranking_det.data.formats.writers.write_whole", fail)
    assert run(tmp_path / "in", tmp_path / "out") == 2
    assert "disk full" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_flag_for_another_format_is_rejected(tmp_path, capsys):
    cases.voc_set(tmp_path / "in")
    assert run(tmp_path / "in", tmp_path / "out", "--boxes", "xyxy") == 2
    assert "--boxes xyxy is for COCO JSON" in capsys.readouterr().err
    assert run(tmp_path / "in", tmp_path / "out", "--class-attribute", "name") == 2
    assert "--class-attribute name is for VIA" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("orientation", "size", "is_unrotated"),
    [(3, (64, 48), False), (6, (48, 64), False), (6, (64, 48), True)],
)
def test_the_annotated_size_decides_whether_the_exif_rotation_is_applied(
    tmp_path, capsys, orientation, size, is_unrotated
):
    image = cases.make_image(tmp_path / "in" / "a.jpg")
    cases.set_orientation(image, orientation)
    text = cases.voc_text([("cat", 20, 10, 25, 30)], size=size)
    cases.write_text(tmp_path / "in" / "a.xml", text)
    assert run(tmp_path / "in", tmp_path / "coco") == 0
    json_file = tmp_path / "coco" / "annotations" / "instances_train.json"
    annotations = read_annotations(json_file, tmp_path / "coco" / "train")
    assert annotations.faults.counts[NOTED, UNROTATED] == is_unrotated
    assert read_upright(str(image), size).size == size
    # YOLO labels have no image sizes, and YOLO programs always apply the rotation.
    code = run(tmp_path / "in", tmp_path / "yolo", "--to", "yolo")
    assert (code, "YOLO labels cannot express this" in capsys.readouterr().err) == (
        (2, True) if is_unrotated else (0, False)
    )


@pytest.mark.parametrize("target", ["coco", "yolo", "voc"])
def test_images_outside_the_source_are_rejected_without_allow_outside(tmp_path, capsys, target):
    cases.make_image(tmp_path / "in" / "images" / "a.jpg")
    cases.make_image(tmp_path / "secret.jpg")
    content = cases.coco_content(["a.jpg", "../../secret.jpg"])
    cases.write_json(tmp_path / "in" / "images" / "a.json", content)
    flags = ["--to", target, "--copy"]
    assert run(tmp_path / "in", tmp_path / "out", *flags) == 2
    assert "1 of 2 images lies outside the image folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert run(tmp_path / "in", tmp_path / "out", *flags, "--allow-outside") == 0
    assert len(list((tmp_path / "out").rglob("*.jpg"))) == 2


@pytest.mark.parametrize("flags", [["--strict"], ["--max-faults", "0"]])
def test_strict_and_max_faults_reject_faulty_objects(tmp_path, capsys, flags):
    boxes = [("cat", 1, 2, 3, 4), ("", 1, 2, 3, 4)]
    cases.make_image(tmp_path / "in" / "a.jpg")
    cases.write_text(tmp_path / "in" / "a.xml", cases.voc_text(boxes))
    assert run(tmp_path / "in", tmp_path / "out", *flags) == 2
    assert "a.xml, object 2: expected a <name>, got none; --" in capsys.readouterr().err
    assert run(tmp_path / "in", tmp_path / "out") == 0
    assert "left out: no class: 1; the first: " in capsys.readouterr().out


def test_an_unreadable_image_is_not_written(tmp_path, capsys):
    cases.coco_set(tmp_path / "in", splits=("train",))
    (tmp_path / "in" / "train" / "train0.jpg").write_bytes(b"<html>")
    assert run(tmp_path / "in", tmp_path / "out", "--to", "yolo") == 0
    printed = capsys.readouterr().out
    assert "train: skipped: unreadable image: 1" in printed and printed.endswith(
        "(YOLO, 1 train)\n"
    )
    assert [path.name for path in (tmp_path / "out").rglob("*.jpg")] == ["train1.jpg"]


def test_two_entries_with_the_same_image_file_are_merged(tmp_path):
    cases.make_image(tmp_path / "in" / "a.jpg")
    cases.write_json(tmp_path / "in" / "a.json", cases.coco_content(["a.jpg", "a.jpg"]))
    for target in ("coco", "yolo", "voc"):
        assert run(tmp_path / "in", tmp_path / target, "--to", target) == 0
    content = read(tmp_path / "yolo", "train")
    assert len(cases.objects_of(content)) == 4


def test_a_conversion_does_not_change_the_source(tmp_path):
    cases.coco_set(tmp_path / "in")
    before = {path: path.read_bytes() for path in (tmp_path / "in").rglob("*") if path.is_file()}
    for target in ("coco", "yolo", "voc"):
        assert run(tmp_path / "in", tmp_path / target, "--to", target) == 0
    after = {path: path.read_bytes() for path in (tmp_path / "in").rglob("*") if path.is_file()}
    assert after == before


def test_the_help_text_has_examples(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    printed = capsys.readouterr().out
    assert "python -m ranking_det.data.convert BCCD_Dataset/BCCD --output" in printed
