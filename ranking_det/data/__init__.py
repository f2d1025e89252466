"""Data sets; importing this registers them with Detectron2."""

from ranking_det.data.catalog import (
    prepare_registered,
    register_annotations,
    register_lvis,
    register_shapes,
    release_sets,
)
from ranking_det.data.coco_json.reader import (
    AnnotationSummary,
    check_same_categories,
    read_annotations,
)

__all__ = [
    "AnnotationSummary",
    "check_same_categories",
    "prepare_registered",
    "read_annotations",
    "register_annotations",
    "register_lvis",
    "register_shapes",
    "release_sets",
]

register_shapes()
register_lvis()
