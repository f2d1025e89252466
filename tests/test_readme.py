"""What the README shows runs, and what it links to is there."""

import re
from pathlib import Path

from benchmarks.readme import fill

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_lines_for_another_detector_run():
    (code,) = (b for b in re.findall(r"```python\n(.*?)```", README, re.S) if "total.backward" in b)
    assert "detectron2" not in code
    exec(code, {})


def test_the_criterion_by_example_builds():
    from detectron2.config import instantiate
    from omegaconf import OmegaConf

    (code,) = (b for b in re.findall(r"```python\n(.*?)```", README, re.S) if "model.assigner" in b)
    model = OmegaConf.create({"assigner": None, "criterion": None}, flags={"allow_objects": True})
    exec(code, {"model": model})
    criterion = instantiate(model.criterion)
    assert criterion.balance.weight == 2.0
    assert instantiate(model.assigner).topk == 9


def test_links_into_the_repository_lead_somewhere():
    links = re.findall(r"\]\(((?!https?://)[^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_figures_are_those_of_the_committed_results():
    assert fill(README) == README
