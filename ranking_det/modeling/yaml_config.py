"""The keys that the project's models add to Detectron2's yaml configs."""

from __future__ import annotations

from detectron2.config import CfgNode


def add_ranking_config(cfg: CfgNode) -> None:
    """Add MODEL.ASSIGNER and MODEL.CRITERION to one config; Detectron2's defaults stay as they are.

    Each is a node ``{NAME: class, ARGUMENT: value}``, for the classes of
    :mod:`ranking_det.assigners` and :mod:`ranking_det.losses`; an argument that is a component
    itself is a node of its own. What a component takes, and its defaults, are in its constructor,
    which the node is checked against when it is built; there is no default criterion.
    """
    cfg.MODEL.ASSIGNER = CfgNode({"NAME": "ATSS"}, new_allowed=True)
    cfg.MODEL.CRITERION = CfgNode({"NAME": ""}, new_allowed=True)
