"""Reference assigners: loops over Python numbers, from the papers' equations."""

import math
import statistics

import numpy as np
from sklearn.mixture import GaussianMixture


def iou(a, b):
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    areas = sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b))
    return w * h / (areas - w * h)


def center(box):
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def max_iou(anchors, objects, valid, positive, negative, low_quality, low_quality_iou=0.0):
    """MaxIoU: return the object of each anchor, None for background, Ellipsis for ignored."""
    table = [[iou(a, o) if v else -1.0 for o in objects] for a, v in zip(anchors, valid)]
    result = [None] * len(anchors)
    for r, row in enumerate(table):
        best = max(row, default=-1.0)
        if best >= positive:
            result[r] = row.index(best)
        elif best >= negative:
            result[r] = ...
    if low_quality is None:
        return result
    for g in range(len(objects)):
        highest = max(row[g] for row in table)
        for r, row in enumerate(table):
            if row[g] == highest and highest > 0 and highest >= low_quality_iou:
                result[r] = g if low_quality == "object" else row.index(max(row))
    return result


def atss(levels, objects, valid, topk):
    """ATSS (Zhang et al., CVPR 2020, algorithm 1): the object of each anchor, or None."""
    anchors = [a for level in levels for a in level]
    claims = {}
    for g, o in enumerate(objects):
        candidates, offset = [], 0
        for level in levels:
            usable = [r for r in range(offset, offset + len(level)) if valid[r]]
            usable.sort(key=lambda r: math.dist(center(anchors[r]), center(o)))
            candidates += usable[:topk]
            offset += len(level)
        ious = [iou(anchors[r], o) for r in candidates]
        if not ious:
            continue
        deviation = statistics.stdev(ious) if len(ious) > 1 else 0.0
        threshold = statistics.mean(ious) + deviation
        for r, value in zip(candidates, ious):
            x, y = center(anchors[r])
            inside = min(x - o[0], y - o[1], o[2] - x, o[3] - y) > 0.01
            if value >= threshold and inside and value > claims.get(r, (-1, None))[0]:
                claims[r] = (value, g)
    return [claims[r][1] if r in claims else None for r in range(len(anchors))]


def fcos(levels, objects, valid, radius, ranges):
    """FCOS (Tian et al., ICCV 2019, section 3) with center sampling: the object per location."""
    limits, result, r = (0.0, *ranges, math.inf), [], 0
    for number, level in enumerate(levels):
        for anchor in level:
            (x, y), stride = center(anchor), (anchor[2] - anchor[0]) / 8
            claims = []
            for g, (x1, y1, x2, y2) in enumerate(objects):
                left, right, top, bottom = x1, x2, y1, y2
                if radius:
                    cx, cy = (x1 + x2) / 2, (y1 + y2) / 2
                    left, right = max(x1, cx - radius * stride), min(x2, cx + radius * stride)
                    top, bottom = max(y1, cy - radius * stride), min(y2, cy + radius * stride)
                largest = max(x - x1, y - y1, x2 - x, y2 - y)
                inside = left < x < right and top < y < bottom
                if valid[r] and inside and limits[number] < largest <= limits[number + 1]:
                    claims.append(((x2 - x1) * (y2 - y1), g))
            result.append(min(claims)[1] if claims else None)
            r += 1
    return result


def mixture(values, reg_covar=1e-6):
    """Fit two Gaussians with scikit-learn, initialized as in PAA."""
    column = np.asarray(values, dtype=np.float64)[:, None]
    return GaussianMixture(
        2,
        weights_init=[0.5, 0.5],
        means_init=[[column.min()], [column.max()]],
        precisions_init=[[[1.0]], [[1.0]]],
        reg_covar=reg_covar,
    ).fit(column)


def paa(levels, objects, valid, costs, options):
    """PAA (Kim and Lee, ECCV 2020, algorithm 1), given costs(g, rows) of anchors of object g."""
    anchors = [a for level in levels for a in level]
    level_of_row = [i for i, level in enumerate(levels) for _ in level]
    min_iou = options["min_iou"]
    matched = max_iou(anchors, objects, valid, min_iou, min_iou, options["low_quality"])
    result = [None] * len(anchors)
    for g in range(len(objects)):
        rows = [r for r in range(len(anchors)) if matched[r] == g]
        cost = dict(zip(rows, costs(g, rows)))
        samples = []
        for i in range(len(levels)):
            level_rows = [r for r in rows if level_of_row[r] == i]
            samples += sorted(level_rows, key=cost.get)[: options["topk"]]
        samples.sort(key=cost.get)
        if len(samples) == 1:
            positives = samples if options["single_candidate"] == "positive" else []
        elif samples:
            chosen = low_cost_component([cost[r] for r in samples], options["reg_covar"])
            positives = [samples[k] for k in chosen]
            if not chosen and options["empty_component"] == "positive":
                positives = samples
        else:
            positives = []
        for r in positives:
            result[r] = g
    return result


def low_cost_component(costs, reg_covar=1e-6):
    """Return the indices of ascending costs in component 0, up to its most likely one."""
    fit = mixture(costs, reg_covar)
    column = np.asarray(costs)[:, None]
    members = np.flatnonzero(fit.predict(column) == 0)
    if not len(members):
        return []
    return members[: 1 + int(np.argmax(fit.score_samples(column)[members]))].tolist()


def paa_costs(logits, boxes, objects, classes, box_weight):
    """Return the costs of PAA: focal loss over all classes plus GIoU loss."""

    def costs(g, rows):
        result = []
        for r in rows:
            total = 0.0
            for k, logit in enumerate(logits[r]):
                p = 1 / (1 + math.exp(-logit))
                if k == classes[g]:
                    total -= 0.25 * (1 - p) ** 2 * math.log(p)
                else:
                    total -= 0.75 * p**2 * math.log(1 - p)
            result.append(total + box_weight * (1 - giou(boxes[r], objects[g])))
        return result

    return costs


def giou(a, b):
    areas = sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b))
    value = iou(a, b)
    union = areas / (1 + value)
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return value - (hull - union) / hull


def normalized_costs(logits, boxes, objects, classes, scores, normalize):
    """Return the costs of NormalizedPAA: the sum of 1 - score."""

    def costs(g, rows):
        p = [1 / (1 + math.exp(-logits[r][classes[g]])) for r in rows]
        i = [iou(boxes[r], objects[g]) for r in rows]
        terms = {"both": [p, i], "classification": [p], "localization": [i]}[scores]
        if normalize:
            terms = [stretch(values) for values in terms]
        return [sum(1 - value for value in values) for values in zip(*terms)]

    return costs


def stretch(values):
    low, high = min(values, default=0), max(values, default=0)
    return [(v - low) / (high - low) if high > low else 0.0 for v in values]
