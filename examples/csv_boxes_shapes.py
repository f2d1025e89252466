"""RetinaNet and Rank & Sort Loss on the data set of csv_boxes.py, at 128 px."""

from examples.csv_boxes import CLASSES, register_csv_shapes

from ..configs.common.shapes_quick import dataloader, lr_multiplier, optimizer, train
from ..configs.common.shapes_quick import retinanet as model

register_csv_shapes()
dataloader.train.dataset.names = "csv_train"
dataloader.test.dataset.names = "csv_val"  # the evaluator refers to it
model.num_classes = len(CLASSES)
train.output_dir = "output/examples/csv_boxes"
