"""Data sets; importing this registers them with Detectron2."""

from ranking_det.data.catalog import register_lvis, register_shapes

register_shapes()
register_lvis()
