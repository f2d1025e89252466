import pytest

from tests.evaluation.cases import BOX, FAR, A, B, ground_truth, result, write


@pytest.fixture
def files(tmp_path):
    """Files with a true positive and a detection that is a false positive only by COCO's rules."""
    results = [result(2, A, FAR, 0.9), result(1, A, BOX, 0.8)]
    return {
        "--ground-truth": write(tmp_path / "gt.json", ground_truth((1, A, BOX), (1, B, FAR))),
        "--results": write(tmp_path / "res.json", results),
        "--output": str(tmp_path / "out.json"),
        "--iou-type": "bbox",
    }
