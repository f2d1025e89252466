"""Data sets, data loading and augmentation; importing this registers the data sets."""

from ranking_det.data.catalog import register_lvis, register_shapes

register_shapes()
register_lvis()
