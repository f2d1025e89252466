"""Drawing: curves, detections and previews."""
