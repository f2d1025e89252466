"""Read and validate COCO and LVIS JSON files, by the same rules for all commands."""
