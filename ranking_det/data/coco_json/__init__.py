"""Read and validate COCO and LVIS JSON: one reader, whose profiles choose the rules that apply."""
