"""Quick configs of one-stage detectors with masks differ only in their losses."""

import pytest
from omegaconf import OmegaConf

from tests.configs.test_rcnn_quick import MASKS
from tests.modeling.cases import load


def test_ranking_and_cross_entropy_configs_share_layers_and_training():
    ranking, baseline = load("quick/yolact_rs.py"), load("quick/yolact_ce.py")
    for key in ("optimizer", "dataloader", "lr_multiplier"):
        assert OmegaConf.to_yaml(ranking[key]) == OmegaConf.to_yaml(baseline[key])
    assert {**ranking.train, "output_dir": ""} == {**baseline.train, "output_dir": ""}
    changed = {key for key in ranking.model if ranking.model[key] != baseline.model[key]}
    assert changed == {"criterion", "mask_branch", "inference"}


@pytest.mark.parametrize("name", MASKS)
def test_all_other_settings_equal_those_of_the_dense_config(name):
    cfg, base = load(f"quick/{name}.py"), load("quick/retinanet_atss_rs.py")
    assert cfg.train.output_dir == f"output/shapes/quick/{name}"
    changed = ("output_dir", "epochs", "max_iter", "eval_period", "checkpointer")
    assert {**cfg.train, **dict.fromkeys(changed)} == {**base.train, **dict.fromkeys(changed)}
    assert cfg.train.max_iter == round(cfg.train.epochs * cfg.train.iterations_per_epoch)
    assert OmegaConf.to_yaml(cfg.optimizer) == OmegaConf.to_yaml(base.optimizer)
    assert cfg.dataloader.train.mapper.masks
    assert cfg.dataloader.test == base.dataloader.test
    assert cfg.model.num_classes == 12 and cfg.model.inference.score_thresh == 0.0
