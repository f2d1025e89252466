"""Two-stage detectors (R-CNNs): RPN, box heads, cascades and mask heads."""
