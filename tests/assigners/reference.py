"""The assignment rules as loops over plain numbers, straight from the papers."""

import math
import statistics


def iou(a, b):
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    areas = sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b))
    return w * h / (areas - w * h)


def center(box):
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def max_iou(anchors, objects, valid, positive, negative, low_quality):
    """The object of each anchor, or None for background and ... for ignored."""
    result = [None] * len(anchors)
    table = [[iou(a, o) if v else -1.0 for o in objects] for a, v in zip(anchors, valid)]
    for r, row in enumerate(table):
        if not objects or not valid[r]:
            continue
        best = max(row)
        forced = low_quality and any(
            row[g] > 0 and row[g] == max(other[g] for other in table) for g in range(len(objects))
        )
        if best >= positive or forced:
            result[r] = row.index(best)
        elif best >= negative:
            result[r] = ...
    return result


def atss(levels, objects, valid, topk):
    """Zhang et al., CVPR 2020, algorithm 1; the object of each anchor or None."""
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
