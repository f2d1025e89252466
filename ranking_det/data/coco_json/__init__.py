"""COCO and LVIS JSON: one reader, whose profiles say which rules apply."""
