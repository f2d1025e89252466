"""From result files to tables and pictures; without Detectron2."""
