"""Repeat factor sampling of images with rare classes."""

import math
from pathlib import Path

import pytest
from detectron2.data import MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.samplers import RepeatFactorTrainingSampler

from ranking_det.data.catalog import register_shapes
from ranking_det.data.repeat import repeat_rare
from ranking_det.data.shapes import prepare_shapes
from ranking_det.data.stream import RecordList, build_train_loader
from ranking_det.engine.run_config import load_config
from ranking_det.user_errors import UserError

repeat_factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency
CONFIGS = Path(__file__).parents[2] / "configs" / "shapes"


def image(*classes):
    return {"annotations": [{"category_id": k} for k in classes]}


# 8 images: class 0 is in 6 of them, class 1 in 2, class 2 in 1.
IMAGES = [image(0), image(0, 0), image(0), image(0), image(0, 1), image(0, 1, 2), image(), image()]


@pytest.fixture
def root(tmp_path):
    prepare_shapes(tmp_path, variant="shapes_lvis", train=60, val=2, size=32)
    register_shapes(tmp_path)
    yield tmp_path
    register_shapes()


def test_the_repeat_factor_of_an_image_is_the_factor_of_its_rarest_class():
    # sqrt(.5 / (2/8)) = 1.414 and sqrt(.5 / (1/8)) = 2 exactly; an empty image has factor 1.
    expected = [1, 1, 1, 1, math.sqrt(2), 2, 1, 1]
    assert repeat_factors(IMAGES, 0.5).tolist() == pytest.approx(expected)


def test_repeat_factors_are_rounded_up_and_records_are_not_copied():
    repeated = repeat_rare(IMAGES, threshold=0.5)
    indices = [next(i for i, image in enumerate(IMAGES) if image is copy) for copy in repeated]
    assert indices == [0, 1, 2, 3, 4, 4, 5, 5, 6, 7]
    assert len(repeat_rare(IMAGES, threshold=0.1)) == len(IMAGES)
    assert len(repeat_rare([], threshold=0.1)) == 0


@pytest.mark.parametrize(
    ("images", "threshold", "message"),
    [
        (IMAGES, -1.0, "threshold: expected the share of a rare class, at least 0, got -1.0"),
        ([{"file_name": "a.jpg"}], 0.1, "needs the annotations of every image"),
    ],
)
def test_invalid_arguments_give_a_one_line_error(images, threshold, message):
    with pytest.raises(UserError, match=message):
        repeat_rare(images, threshold)


@pytest.mark.parametrize("grouping", [False, True])
def test_a_loader_stores_a_repeated_image_once_and_yields_every_repeat(grouping):
    records = [{"name": i, "width": 2, "height": 1, **image} for i, image in enumerate(IMAGES)]
    repeated = repeat_rare(records, threshold=0.5)
    stored = RecordList(repeated)
    assert len(stored) == 10 and len(stored.dataset) == 8
    assert [stored[i]["name"] for i in range(10)] == [record["name"] for record in repeated]
    loader = build_train_loader(
        repeated, mapper=dict, total_batch_size=2, aspect_ratio_grouping=grouping
    )
    batches = [batch for batch, _ in zip(loader, range(25))]
    names = [record["name"] for batch in batches for record in batch]
    assert all(names.count(name) == 5 * (2 if name in (4, 5) else 1) for name in range(8))


def test_a_lazyconfig_repeats_images_with_a_repeat_rare_node_around_its_data_set(root, tmp_path):
    path = tmp_path / "config.py"
    path.write_text(f"""
from detectron2.config import LazyCall as L, LazyConfig
from ranking_det.data.repeat import repeat_rare
base = LazyConfig.load({str(CONFIGS / "retinanet_atss_rs.py")!r})
model, dataloader, optimizer = base.model, base.dataloader, base.optimizer
lr_multiplier, train = base.lr_multiplier, base.train
dataloader.train.dataset.names = "shapes_lvis_train"
dataloader.train.dataset = L(repeat_rare)(dataset=dataloader.train.dataset, threshold=0.2)
""")
    overrides = ["train.device=cpu", "dataloader.train.total_batch_size=8", "train.epochs=2"]
    config = load_config(str(path), overrides)
    assert config.names("train") == ["shapes_lvis_train"]
    assert config.names_key("train") == "dataloader.train.dataset.dataset.names"
    images = get_detection_dataset_dicts("shapes_lvis_train")
    expected = int(repeat_factors(images, 0.2).ceil().sum())
    records = config.records()
    assert len(images) < expected == len(records)
    config.fit_to_data(len(records))
    assert config.schedule()[0].epoch == math.ceil(expected / 8)
    loader = config.train_loader(records, 0)
    assert len(loader.dataset.dataset.dataset) == len(images)
    config.set_names("train", "own_train")
    config.keep_empty_images()
    inner = config.nodes.dataloader.train.dataset.dataset
    assert (inner.names, inner.filter_empty) == ("own_train", False)


def test_a_yaml_config_repeats_images_with_detectron2s_keys(root):
    sampler = ["DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"]
    overrides = [*sampler, "DATALOADER.REPEAT_THRESHOLD", "0.2", "DATALOADER.NUM_WORKERS", "0"]
    overrides += ["DATASETS.TRAIN", "('shapes_lvis_train',)", "MODEL.DEVICE", "cpu"]
    config = load_config(str(CONFIGS / "retinanet_atss_rs.yaml"), overrides)
    images = get_detection_dataset_dicts("shapes_lvis_train")
    records = config.records()
    assert len(records) == len(repeat_rare(images, 0.2)) > len(images)
    assert MetadataCatalog.get("shapes_lvis_train").evaluator_type == "lvis"
    batch = next(iter(config.train_loader(records, 0)))
    assert len(batch) == 8 and "instances" in batch[0]
