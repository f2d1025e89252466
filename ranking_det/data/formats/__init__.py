"""Read Pascal VOC, YOLO, VIA, LabelMe and COCO data sets, and write COCO, YOLO and Pascal VOC."""
