"""Dense detectors: RetinaNet and FCOS."""
