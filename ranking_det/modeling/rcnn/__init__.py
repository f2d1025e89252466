"""Two-stage detectors: RPN, box heads, cascades and mask heads."""
