"""Data sets; importing this registers them with Detectron2."""

from ranking_det.data.annotations import (
    AnnotationSummary,
    check_same_categories,
    read_annotations,
)
from ranking_det.data.own import complete_for_evaluation, register_annotations
from ranking_det.data.register import prepare_registered, register_lvis, register_shapes

__all__ = [
    "AnnotationSummary",
    "check_same_categories",
    "complete_for_evaluation",
    "prepare_registered",
    "read_annotations",
    "register_annotations",
    "register_lvis",
    "register_shapes",
]

register_shapes()
register_lvis()
