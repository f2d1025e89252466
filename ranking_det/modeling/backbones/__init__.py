"""Backbones and necks that Detectron2 does not have."""
