"""Plots and pictures: training curves, detections and previews of training images."""
