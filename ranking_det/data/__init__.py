"""Data sets; importing this registers them with Detectron2."""

from ranking_det.data.register import prepare_registered, register_shapes

__all__ = ["prepare_registered", "register_shapes"]

register_shapes()
