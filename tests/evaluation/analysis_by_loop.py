"""The numbers about detections by loops over images, detections and objects, from definitions."""

import math
from collections import defaultdict

import numpy as np
import pytest

from tests.evaluation.lrp_by_loop import region_iou

IOUS = [0.5 + i / 20 for i in range(10)]
RECALLS = np.linspace(0, 1, 101).tolist()  # COCO's, a few of which are above i / 100 by 1e-16


def counts_as_annotated(image, category, annotations, rules):
    """Return whether a detection of this class in this image can be wrong."""
    present = any(a["category_id"] == category for a in annotations)
    return rules == "coco" or present or category in image["neg_category_ids"]


def match_all(content, results, iou_type, rules, min_iou=0.5):
    """Return the detections that count, by class and descending score, and the objects."""
    detections = []
    for image in sorted(content["images"], key=lambda image: image["id"]):
        annotations = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        rows = [r for r in results if r["image_id"] == image["id"]]
        taken = []
        for row in sorted(rows, key=lambda r: -r["score"]):
            category = row["category_id"]
            if counts_as_annotated(image, category, annotations, rules):
                detection, ignored = match_one(row, annotations, taken, iou_type, min_iou)
                ignored |= rules == "lvis" and category in image["not_exhaustive_category_ids"]
                if detection["target"] is not None:
                    taken.append(detection["target"])
                if detection["target"] is not None or not ignored:
                    detections.append(detection)
    # Stable: equal scores stay in the order of the images.
    detections.sort(key=lambda d: (d["label"], -d["score"]))
    return detections, [a for a in content["annotations"] if not a.get("iscrowd")]


def match_one(row, annotations, taken, iou_type, min_iou):
    """Return a detection, and whether it is ignored if it is unmatched.

    A detection has its score, class, ``target`` (a matched object or None), and its IoUs with the
    best objects of its class and of other classes, ``same_class`` and ``other_class``.
    """
    detection = {"score": row["score"], "label": row["category_id"], "target": None, "iou": 0}
    detection |= {
        "same_class": None,
        "same_class_iou": 0,
        "other_class": None,
        "other_class_iou": 0,
        "overlaps": [],
    }
    in_crowd = False
    for annotation in annotations:
        iou = region_iou(row, annotation, iou_type)
        is_same_class = annotation["category_id"] == row["category_id"]
        if annotation.get("iscrowd"):
            in_crowd |= is_same_class and iou >= min_iou
            continue
        kind = "same_class" if is_same_class else "other_class"
        if iou > 0 and iou >= detection[f"{kind}_iou"]:
            detection[kind], detection[f"{kind}_iou"] = annotation, iou
        if is_same_class and annotation not in taken and iou >= max(min_iou, detection["iou"]):
            detection["target"], detection["iou"] = annotation, iou
        if not is_same_class:
            detection["overlaps"].append((iou, annotation))
    return detection, in_crowd


def pearson_by_loop(xs, ys):
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    covariance = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys))
    variances = [sum((v - m) ** 2 for v in vs) for vs, m in ((xs, mean_x), (ys, mean_y))]
    return covariance / math.sqrt(variances[0] * variances[1])


def correlation_by_loop(pairs):
    """Return count, Pearson's, Spearman's and Kendall's coefficients of (score, IoU)."""
    scores, ious = ([pair[i] for pair in pairs] for i in range(2))
    if len(set(scores)) < 2 or len(set(ious)) < 2:
        return len(pairs), math.nan, math.nan, math.nan
    ranks = [
        [sum(other < v for other in vs) + (vs.count(v) + 1) / 2 for v in vs]
        for vs in (scores, ious)
    ]
    concordant = discordant = only_scores = only_ious = 0
    for i in range(len(pairs)):
        for j in range(i):
            a, b = scores[i] - scores[j], ious[i] - ious[j]
            concordant += a * b > 0
            discordant += a * b < 0
            only_scores += a != 0 and b == 0
            only_ious += a == 0 and b != 0
    ordered = concordant + discordant
    kendall = (concordant - discordant) / math.sqrt((ordered + only_scores) * (ordered + only_ious))
    return len(pairs), pearson_by_loop(scores, ious), pearson_by_loop(*ranks), kendall


def divide(a, b):
    return a / b if b else math.nan


def point_by_loop(detections, num_objects, threshold):
    """Return TP, FP, objects, precision, recall and F1 of the detections above a threshold."""
    above = [d for d in detections if d["score"] >= threshold]
    true = sum(d["target"] is not None for d in above)
    f1 = divide(2 * true, len(above) + num_objects) if num_objects else math.nan
    point = true, len(above) - true, num_objects
    return *point, divide(true, len(above)), divide(true, num_objects), f1


def ap_by_loop(detections, num_objects):
    """Return AP over 101 recalls of (score, is true) pairs."""
    if not num_objects:
        return math.nan
    points, true = [], 0
    for count, (_, is_true) in enumerate(sorted(detections, key=lambda d: -d[0]), start=1):
        true += is_true
        points.append((true / num_objects, true / count))
    best = [max([p for r, p in points if r >= recall], default=0) for recall in RECALLS]
    return sum(best) / len(RECALLS)


def ap_of_classes(detections, objects, categories):
    """Return AP by class of (score, is true, class) triples."""
    return {
        c: ap_by_loop(
            [d[:2] for d in detections if d[2] == c], sum(o["category_id"] == c for o in objects)
        )
        for c in categories
    }


def confusion_by_loop(detections, objects, categories, threshold):
    """Return counts by (object's class, detection's class), None for background."""
    counts = defaultdict(int)
    above = [d for d in detections if d["score"] >= threshold]
    taken = [d["target"] for d in above if d["target"] is not None]
    for detection in sorted(above, key=lambda d: -d["score"]):
        actual, best = None, 0.5
        if detection["target"] is not None:
            actual = detection["label"]
        else:
            match = None
            for iou, other in detection["overlaps"]:
                if iou >= best and other not in taken:
                    match, best = other, iou
            if match is not None:
                taken.append(match)
                actual = match["category_id"]
        counts[actual, detection["label"]] += 1
    for each in objects:
        counts[each["category_id"], None] += each not in taken
    return [[counts[a, b] for b in (*categories, None)] for a in (*categories, None)]


def error_of(detection):
    """Return TIDE's kind of a detection, None for a true positive, and the object it is at."""
    if detection["target"] is not None:
        return None, None
    same, other = detection["same_class_iou"], detection["other_class_iou"]
    if 0.1 <= same <= 0.5:
        return "localization", detection["same_class"]
    if other >= 0.5:
        return "classification", detection["other_class"]
    if same >= 0.5:
        return "duplicate", None
    return ("background" if max(same, other) <= 0.1 else "both"), None


def errors_by_loop(detections, objects, categories):
    """Return AP50 by class, and by kind the counts and the AP50 without these errors, by class."""
    kinds = [error_of(d) for d in detections]
    matched = [d["target"] for d in detections if d["target"] is not None]
    covered = [target for _, target in kinds if target is not None]
    missed = [o for o in objects if o not in matched and o not in covered]
    triples = [(d["score"], d["target"] is not None, d["label"]) for d in detections]
    base = ap_of_classes(triples, objects, categories)
    counts, corrected = {}, {}
    for name in ("classification", "localization", "both", "duplicate", "background"):
        errors = [d for d, (kind, _) in zip(detections, kinds) if kind == name]
        counts[name] = {c: sum(d["label"] == c for d in errors) for c in categories}
        rows = []
        best_of = {}  # the first of the highest score by object
        for d, (kind, target) in zip(detections, kinds):
            if kind == name and target is not None and target not in matched:
                best = best_of.setdefault(target["id"], d)
                if d["score"] > best["score"]:
                    best_of[target["id"]] = d
        for d, (kind, target), triple in zip(detections, kinds, triples):
            if kind != name:
                rows.append(triple)
            elif target is not None and best_of.get(target["id"]) is d:
                rows.append((d["score"], True, target["category_id"]))
        corrected[name] = ap_of_classes(rows, objects, categories)
    counts["missed"] = {c: sum(o["category_id"] == c for o in missed) for c in categories}
    left = [o for o in objects if o not in missed]
    corrected["missed"] = ap_of_classes(triples, left, categories)
    return base, counts, corrected


def approx(value):
    return pytest.approx(value, abs=1e-9, nan_ok=True)


def mean(values):
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan


def check_analysis(numbers, content, results, iou_type, rules, threshold):
    """Check all numbers of ``analyze_detections`` at a score threshold."""
    detections, objects = match_all(content, results, iou_type, rules)
    names = {category["id"]: category["name"] for category in content["categories"]}
    categories = sorted(names)
    groups = [("overall", categories), *((names[c], [c]) for c in categories)]
    base, counts, corrected = errors_by_loop(detections, objects, categories)
    for name, labels in groups:
        group = numbers["overall"] if name == "overall" else numbers["classes"][name]
        rows = [d for d in detections if d["label"] in labels]
        count = sum(o["category_id"] in labels for o in objects)
        pairs = [(d["score"], d["same_class_iou"]) for d in rows if d["same_class_iou"] > 0.5]
        assert tuple(group["correlation"].values()) == approx(correlation_by_loop(pairs))
        point = tuple(group["at_threshold"].values())
        assert point == approx(point_by_loop(rows, count, threshold))
        curve = group["curve"]
        assert bool(count and rows) == bool(curve["threshold"])
        for value, *point in zip(*curve.values()):
            assert point == approx(point_by_loop(rows, count, value)[3:])
        errors = group["errors"]
        assert errors["AP50"] == approx(100 * mean([base[c] for c in labels]))
        for kind, of_class in counts.items():
            assert errors[kind]["count"] == sum(of_class[c] for c in labels)
            gain = mean([corrected[kind][c] for c in labels]) - mean([base[c] for c in labels])
            assert errors[kind]["AP"] == approx(100 * gain)
    overall = numbers["overall"]
    assert overall["errors"]["AP50"] == approx(overall["AP50"])
    matrix = numbers["confusion_matrix"]
    assert matrix["counts"] == confusion_by_loop(detections, objects, categories, threshold)
    assert matrix["classes"] == [*(names[c] for c in categories), "background"]
    pooled = []
    for min_iou in IOUS:
        rows, _ = match_all(content, results, iou_type, rules, min_iou)
        pairs = [(d["score"], d["target"] is not None) for d in rows]
        pooled.append(100 * ap_by_loop(pairs, len(objects)))
    assert overall["pooledAP"] == approx(sum(pooled) / 10)
    assert overall["pooledAP50"] == approx(pooled[0])
    assert overall["pooledAP75"] == approx(pooled[5])
