"""Dense (one-stage) detectors: RetinaNet and FCOS."""
