"""Data sets, data loading and augmentation; importing this registers the data sets."""

from ranking_det.library_warnings import hide_in_commands

hide_in_commands()
from ranking_det.data.catalog import register_lvis, register_shapes  # noqa: E402

register_shapes()
register_lvis()
