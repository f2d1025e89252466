"""The keys that the project's models add to Detectron2's yaml configs."""

from __future__ import annotations

from detectron2.config import CfgNode

COMPONENTS = {
    "ASSIGNER": "ATSS",
    "CRITERION": "",
    "HEAD": "DenseHead",
    "INFERENCE": "DenseInference",
}
"""The nodes under MODEL and their default NAME."""


def add_ranking_config(cfg: CfgNode) -> None:
    """Add the project's nodes to one config; Detectron2's defaults stay as they are.

    MODEL.ASSIGNER, MODEL.CRITERION, MODEL.HEAD and MODEL.INFERENCE. Of the head and the inference,
    what Detectron2 has keys for is taken from MODEL.RETINANET and TEST, for FCOS too.

    Each is a node ``{NAME: class, ARGUMENT: value}``, for the classes of
    :mod:`ranking_det.assigners`, :mod:`ranking_det.losses` and this package; an argument that is a
    component itself, or a list of them, is a node or a list of nodes of its own. What a component
    takes, and its defaults, are in its constructor, which the node is checked against when it is
    built; there is no default criterion.
    """
    for node, name in COMPONENTS.items():
        cfg.MODEL[node] = CfgNode({"NAME": name}, new_allowed=True)
