"""Read images: EXIF rotation, pixel formats; mappers skip or blank unreadable files."""

import logging
import re

import detectron2.data.transforms as T
import numpy as np
import pytest
from detectron2.data import DatasetMapper
from PIL import Image

from ranking_det.data import images as module
from ranking_det.data.images import (
    Header,
    UnreadableImageError,
    check_whole,
    has_image_extension,
    is_image,
    read_header,
    read_upright,
)
from ranking_det.data.mapper import BoxMapper, ImageMapper, UnreadableImages
from ranking_det.data.stream import build_train_loader
from ranking_det.user_errors import UserError
from tests.data.cases import write_truncated_image

RESIZE = [T.ResizeShortestEdge(short_edge_length=16, max_size=32)]
MAPPERS = {
    "DatasetMapper": lambda: DatasetMapper(False, augmentations=RESIZE, image_format="BGR"),
    "BoxMapper": lambda: BoxMapper(augmentations=RESIZE, image_format="BGR"),
}
each_mapper = pytest.mark.parametrize("make_mapper", MAPPERS.values(), ids=MAPPERS)


def save_sideways(path, size=(20, 10)):
    """Save an image whose left half is white, to be rotated by 90 degrees clockwise."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new("L", size)
    image.paste(255, (0, 0, size[0] // 2, size[1]))
    image.save(path, exif=exif)


def record_of(path, width, height):
    return {"file_name": str(path), "image_id": 1, "width": width, "height": height}


def test_exif_rotation_is_applied_unless_only_the_unrotated_size_fits(tmp_path):
    path = str(tmp_path / "a.png")
    save_sideways(path)
    assert read_header(path) == Header(stored=(20, 10), upright=(10, 20), mode="L")
    for size in (None, (10, 20), (7, 7)):
        upright = np.asarray(read_upright(path, size))
        assert upright.shape == (20, 10) and upright[0].all() and not upright[-1].any()
    raw = np.asarray(read_upright(path, (20, 10)))
    assert raw.shape == (10, 20) and raw[:, 0].all() and not raw[:, -1].any()
    save_sideways(path, (10, 10))
    assert np.asarray(read_upright(path, (10, 10)))[0].all()


@each_mapper
@pytest.mark.parametrize("size", [(20, 10), (10, 20)])
def test_mappers_accept_the_size_before_or_after_rotation_and_reject_other_sizes(
    tmp_path, make_mapper, size
):
    path = tmp_path / "a.png"
    save_sideways(path)
    mapper = ImageMapper(make_mapper())
    image = mapper(record_of(path, *size))["image"]
    assert image.shape == (3, size[1] * 16 // 10, size[0] * 16 // 10)
    with pytest.raises(UserError, match="cannot be read: Mismatched image shape"):
        mapper(record_of(path, 20, 20))


@each_mapper
def test_16_bit_images_are_scaled_with_one_warning(tmp_path, make_mapper, caplog, monkeypatch):
    monkeypatch.setattr(module, "_WARNED", [])
    mapper = ImageMapper(make_mapper())
    for name, mode in (("a.png", "I;16"), ("b.tif", "I;16"), ("c.tif", "I"), ("d.tif", "I;16B")):
        pixels = np.full((16, 16), 0x4000, dtype=np.int32 if mode == "I" else np.uint16)
        Image.fromarray(pixels.astype(">u2") if mode == "I;16B" else pixels).save(tmp_path / name)
        assert (mapper(record_of(tmp_path / name, 16, 16))["image"] == 0x40).all()
    assert len(caplog.records) == 1
    assert re.search(r"divided by 256; the first is .*a\.png, with values up to 16384", caplog.text)


def test_32_bit_images_with_8_bit_values_are_read_and_values_beyond_16_bits_are_rejected(tmp_path):
    path = tmp_path / "a.tif"
    for pixels, message in [
        (np.full((4, 4), 200, np.int32), None),
        (np.full((4, 4), 1 << 20, np.int32), "expected pixel values from 0 to 65535, got 1048576"),
        (np.full((4, 4), -1, np.int32), "expected pixel values from 0 to 65535, got -1 to -1"),
        (np.full((4, 4), 0.5, np.float32), "it has floating-point pixels; save it with 8 or 16"),
    ]:
        Image.fromarray(pixels).save(path)
        if message is None:
            assert (np.asarray(read_upright(str(path))) == 200).all()
            continue
        for read in (read_upright, check_whole):
            with pytest.raises(UnreadableImageError, match=message):
                read(str(path))


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.gif", "a.bmp", "a.webp", "a.tif"])
def test_truncated_images_raise_unreadable_image_error(tmp_path, name):
    write_truncated_image(tmp_path / name, (64, 48))
    for read in (read_upright, check_whole):
        with pytest.raises(UnreadableImageError):
            read(str(tmp_path / name))
    Image.new("RGB", (64, 48)).save(tmp_path / name)
    check_whole(str(tmp_path / name))


def test_missing_files_and_folders_raise_os_errors_instead_of_unreadable_image_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_upright(str(tmp_path / "none.png"))
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(IsADirectoryError):
        read_header(str(tmp_path / "folder.png"))
    with pytest.raises(UserError, match="none.png' cannot be read: .*No such file"):
        skipped = UnreadableImages([str(tmp_path / "none.png")])
        mapper = ImageMapper(MAPPERS["DatasetMapper"](), skipped=skipped)
        mapper(record_of(tmp_path / "none.png", 4, 4))


def test_images_are_recognized_by_content_except_formats_that_run_programs(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.txt", "PNG")
    Image.new("RGB", (4, 4)).save(tmp_path / "a.jpg", "EPS")
    assert is_image(str(tmp_path / "a.txt")) and not is_image(str(tmp_path / "a.jpg"))
    assert has_image_extension("x/a.JFIF") and has_image_extension("a.avif")
    assert not any(map(has_image_extension, ("a.txt", "a.eps", "a.pdf", "a", ".png")))
    with pytest.raises(UnreadableImageError, match="not an image, or an unknown format"):
        read_upright(str(tmp_path / "a.jpg"))


@each_mapper
@pytest.mark.parametrize("size", [(3000, 4), (2, 900)])
def test_a_very_long_image_keeps_at_least_one_pixel_across_when_resized(
    tmp_path, make_mapper, size
):
    Image.new("RGB", size).save(tmp_path / "a.png")
    image = ImageMapper(make_mapper())(record_of(tmp_path / "a.png", *size))["image"]
    assert sorted(image.shape) == [1, 3, 32]


@pytest.fixture
def broken_set(tmp_path):
    """Return the records of six images; the third and fourth are truncated."""
    records = []
    for i in range(6):
        Image.new("RGB", (16, 16), (i, i, i)).save(tmp_path / f"{i}.png")
        records.append({**record_of(tmp_path / f"{i}.png", 16, 16), "image_id": i})
    for i in (2, 3):
        write_truncated_image(tmp_path / f"{i}.png", (16, 16))
    return records


def take_ids(records, count, **options):
    skipped = UnreadableImages(record["file_name"] for record in records)
    mapper = ImageMapper(MAPPERS["DatasetMapper"](), skipped=skipped)
    batches = iter(build_train_loader(records, mapper=mapper, total_batch_size=2, **options))
    return [[sample["image_id"] for sample in next(batches)] for _ in range(count)], skipped


def test_a_resumed_loader_skips_the_same_unreadable_images_and_counts_them(broken_set, caplog):
    expected, skipped = take_ids(broken_set, 9)
    assert {i for batch in expected for i in batch} == {0, 1, 4, 5}
    assert take_ids(broken_set, 5, start_iter=4)[0] == expected[4:]
    caplog.clear()
    skipped.log_total()
    (total,) = caplog.messages
    assert re.fullmatch(r"2 unreadable images were skipped in training, \d+ times in total", total)


def test_each_skipped_image_is_logged_once(broken_set, caplog):
    with caplog.at_level(logging.WARNING):
        take_ids(broken_set, 9)
    names = re.findall(r"Skipping the image '.*(\d)\.png': it cannot be read \(", caplog.text)
    assert sorted(names) == ["2", "3"]


def test_data_loading_workers_skip_the_same_images_and_share_the_counts(broken_set):
    expected, skipped = take_ids(broken_set, 6)
    ids_with_workers, skipped_by_workers = take_ids(broken_set, 6, num_workers=2)
    assert (
        ids_with_workers == expected
        and skipped._counts.count_nonzero() == skipped_by_workers._counts.count_nonzero() == 2
    )


def test_loaders_that_group_by_shape_skip_unreadable_images(broken_set):
    batches, _ = take_ids(broken_set, 9, aspect_ratio_grouping=True)
    assert {i for batch in batches for i in batch} == {0, 1, 4, 5}


def test_a_data_set_without_readable_images_raises_user_error(broken_set):
    with pytest.raises(UserError, match="the mapper returns None for every image"):
        take_ids(broken_set[2:4], 1)


def test_an_unreadable_image_is_replaced_by_black_for_evaluation_and_raises_by_default(broken_set):
    inputs = ImageMapper(MAPPERS["DatasetMapper"](), blank=True)(broken_set[2])
    assert not inputs["image"].any() and inputs["image"].shape == (3, 16, 16)
    assert "truncated" in inputs["unreadable"]
    with pytest.raises(UserError, match="2.png' cannot be read: image file is truncated"):
        ImageMapper(MAPPERS["DatasetMapper"]())(broken_set[2])
