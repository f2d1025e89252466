"""oLRP by loops over thresholds, classes, images, detections and objects, from its definition."""

import math

import numpy as np
from pycocotools import mask as mask_util


def region_iou(detection, annotation, iou_type):
    """Return the IoU with an object, or the covered share of the detection for a crowd."""
    crowd = [bool(annotation.get("iscrowd"))]
    if iou_type == "bbox":
        return mask_util.iou([detection["bbox"]], [annotation["bbox"]], crowd)[0][0]
    mask = mask_util.frPyObjects(annotation["segmentation"], *detection["segmentation"]["size"])
    if isinstance(mask, list):  # polygons
        mask = mask_util.merge(mask)
    return mask_util.iou([detection["segmentation"]], [mask], crowd)[0][0]


def match_image(detections, annotations, iou_type, area_range):
    """Return (score, IoU or 0, ignored) of each detection of a class in an image."""
    low, high = area_range
    outside = [not low <= a["area"] <= high or bool(a.get("iscrowd")) for a in annotations]
    taken, rows = set(), []
    for detection in sorted(detections, key=lambda d: -d["score"])[:100]:
        best = None
        for group in (False, True):  # objects that count come first
            for g, annotation in enumerate(annotations):
                free = g not in taken or annotation.get("iscrowd")
                if outside[g] != group or not free:
                    continue
                iou = region_iou(detection, annotation, iou_type)
                if iou >= 0.5 - 1e-12 and (best is None or iou >= best[0]):
                    best = iou, g
            if best is not None:
                break
        if iou_type == "bbox":
            area = detection["bbox"][2] * detection["bbox"][3]
        else:
            area = mask_util.area(detection["segmentation"])
        if best is None:
            rows.append((detection["score"], 0.0, not low <= area <= high))
        else:
            taken.add(best[1])
            rows.append((detection["score"], best[0], outside[best[1]]))
    return rows, len(outside) - sum(outside)


def optimal_lrp_by_loop(rows, num_objects):
    """Return oLRP, Loc, FP, FN and the threshold from (score, IoU) in descending order."""
    nothing = math.nan
    if not num_objects:
        return (nothing,) * 5
    best = (1.0, nothing, nothing, 1.0, nothing)
    for k in range(1, len(rows) + 1):
        ious = [iou for _, iou in rows[:k] if iou > 0]
        true, false = len(ious), k - len(ious)
        distance = sum(1 - iou for iou in ious)
        missed = num_objects - true
        error = (distance / 0.5 + false + missed) / (true + false + missed)
        is_better = error < best[0] - 1e-12 or (math.isnan(best[4]) and error <= best[0])
        if true and is_better:
            best = error, distance / true, false / k, missed / num_objects, rows[k - 1][0]
    return best


def lrp_of_classes(content, results, iou_type, rules, area_range):
    """Return the five numbers of each category."""
    numbers = {}
    for category in sorted(c["id"] for c in content["categories"]):
        rows, total = [], 0
        for image in sorted(content["images"], key=lambda image: image["id"]):
            annotations, detections = (
                [e for e in entries if (e["image_id"], e["category_id"]) == (image["id"], category)]
                for entries in (content["annotations"], results)
            )
            if rules == "lvis" and not annotations and category not in image["neg_category_ids"]:
                continue
            image_rows, count = match_image(detections, annotations, iou_type, area_range)
            if rules == "lvis" and category in image["not_exhaustive_category_ids"]:
                image_rows = [row for row in image_rows if row[1] > 0]
            rows += image_rows
            total += count
        counting = [row[:2] for row in rows if not row[2]]
        counting.sort(key=lambda row: -row[0])
        numbers[category] = optimal_lrp_by_loop(counting, total)
    return numbers


def metrics_by_loop(content, results, iou_type, rules, names):
    """Return the metrics of oLRP, in percent."""
    areas = {"": (0, 1e10), "s": (0, 32**2), "m": (32**2, 96**2), "l": (96**2, 1e10)}
    metrics = {}
    for area, area_range in areas.items():
        numbers = lrp_of_classes(content, results, iou_type, rules, area_range)
        columns = dict(zip(("", "Loc", "FP", "FN"), list(zip(*numbers.values()))[:4]))
        for part, values in columns.items() if not area else [(area, columns[""])]:
            defined = [value for value in values if not math.isnan(value)]
            metrics[f"oLRP{part}"] = 100 * np.mean(defined) if defined else math.nan
        if not area:
            for category, (error, *_, threshold) in numbers.items():
                metrics[f"oLRP-{names[category]}"] = 100 * error
                metrics[f"threshold-{names[category]}"] = threshold
    return metrics
