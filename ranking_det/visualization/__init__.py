"""Plots, pictures and HTML reports: training curves, detections, data sets, training previews."""
