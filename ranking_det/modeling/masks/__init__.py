"""One-stage detectors with instance masks: YOLACT and SOLOv2."""
