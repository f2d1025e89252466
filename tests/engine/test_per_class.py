"""Result files of an evaluation: per_class_ap.csv and results.json."""

import csv
import math

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm

from ranking_det.engine.evaluate import PER_CLASS_FILE, write_per_class, write_results

CLASSES = ["car, red", 'the "big" one', "Bär-熊", "nothing"]


def register(name, classes):
    record = {"annotations": [{"category_id": 0}, {"category_id": 0, "iscrowd": 1}]}
    second_record = {"annotations": [{"category_id": 0}, {"category_id": 0}, {"category_id": 2}]}
    DatasetCatalog.register(name, lambda: [record, second_record, {"annotations": []}])
    MetadataCatalog.get(name).thing_classes = classes
    return name


@pytest.fixture
def dataset(request):
    names = [register(f"{request.node.name}_{i}", CLASSES[:n]) for i, n in enumerate((4, 1))]
    yield names
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def metrics(*values):
    return {"AP": 1.0, "APs": 2.0} | {f"AP-{c}": v for c, v in zip(CLASSES, values)}


def read(folder):
    with open(folder / PER_CLASS_FILE, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_table_has_every_class_even_with_unusual_names(dataset, tmp_path):
    results = {"bbox": metrics(12.3456, 0.0, 50.0, math.nan), "segm": metrics(1, 2, 3, math.nan)}
    folder = tmp_path / "new"
    write_per_class(results, str(folder), dataset[:1])
    rows = read(folder)
    assert list(rows[0]) == ["dataset", "class", "bbox_AP", "segm_AP", "objects", "images"]
    assert [row["class"] for row in rows] == CLASSES
    assert [row["bbox_AP"] for row in rows] == ["12.346", "0.000", "50.000", ""]
    assert [row["segm_AP"] for row in rows] == ["1.000", "2.000", "3.000", ""]
    assert [row["objects"] for row in rows] == ["3", "0", "1", "0"]
    assert [row["images"] for row in rows] == ["2", "0", "1", "0"]
    assert [path.name for path in folder.iterdir()] == [PER_CLASS_FILE]


def test_several_data_sets_share_the_table_and_a_single_class_gets_the_overall_ap(
    dataset, tmp_path
):
    results = {dataset[0]: {"bbox": metrics(1, 2, 3, 4)}, dataset[1]: {"bbox": {"AP": 7.0}}}
    write_per_class(results, str(tmp_path), dataset)
    rows = [(row["dataset"], row["class"], row["bbox_AP"]) for row in read(tmp_path)]
    assert len(rows) == 5 and rows[-1] == (dataset[1], CLASSES[0], "7.000")


def test_an_evaluation_without_ap_per_class_removes_an_earlier_table(dataset, tmp_path):
    # Detectron2 returns these without any detection, and without annotations.
    for results in ({"bbox": {"AP": math.nan}, "other": 3.0}, {}):
        write_per_class({"bbox": metrics(1, 2, 3, 4)}, str(tmp_path), dataset[:1])
        assert len(read(tmp_path)) == 4
        write_per_class(results, str(tmp_path), dataset[:1])
        assert not list(tmp_path.iterdir())


def test_an_evaluation_without_metrics_removes_earlier_metrics(tmp_path, monkeypatch):
    write_results({"bbox": {"AP": 1.0}}, str(tmp_path))
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    write_results({}, str(tmp_path))  # all processes except the main one have no metrics
    monkeypatch.undo()
    assert (tmp_path / "results.json").exists()
    for folder in (tmp_path, tmp_path / "new"):
        write_results({}, str(folder))
        assert not (folder / "results.json").exists()
