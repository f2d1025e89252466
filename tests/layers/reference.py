"""Reference implementations: loops over Python numbers, from the papers' equations."""

import math


def iou(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    inter = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
    return inter / union if union > 0 else 0.0


def soft_nms(boxes, scores, classes, method, iou_thresh, sigma):
    """Suppress each class separately: (index, lowered score) of all, by descending score."""
    picks = []
    for c in set(classes):
        remaining = {i: s for i, s in enumerate(scores) if classes[i] == c}
        while remaining:
            best = max(remaining, key=remaining.get)
            picks.append((best, remaining.pop(best)))
            for i in remaining:
                overlap = iou(boxes[best], boxes[i])
                if method == "gaussian":
                    remaining[i] *= math.exp(-(overlap**2) / sigma)
                elif overlap >= iou_thresh:
                    remaining[i] *= 1 - overlap
    return sorted(picks, key=lambda pair: -pair[1])


def vote(survivors, boxes, scores, classes, min_iou, sigma):
    voted = []
    for k in survivors:
        total, mean = 0.0, [0.0] * 4
        for box, score, c in zip(boxes, scores, classes):
            overlap = iou(boxes[k], box)
            if c == classes[k] and overlap > min_iou:
                weight = score * math.exp(-((1 - overlap) ** 2) / sigma)
                total += weight
                mean = [m + weight * x for m, x in zip(mean, box)]
        voted.append([m / total for m in mean] if total > 0 else boxes[k])
    return voted


def carafe(features, kernels, size, group, scale):
    """Upsample nested lists (C, H, W) with kernels (g k k, s H, s W), section 3.3."""
    channels, height, width = len(features), len(features[0]), len(features[0][0])
    reach = size // 2

    def pixel(c, i, j):
        kernel, total = c // (channels // group) * size**2, 0.0
        for n in range(-reach, reach + 1):
            for m in range(-reach, reach + 1):
                y, x = i // scale + n, j // scale + m
                if 0 <= y < height and 0 <= x < width:
                    total = total + kernels[kernel][i][j] * features[c][y][x]
                kernel += 1
        return total

    rows, columns = range(scale * height), range(scale * width)
    return [[[pixel(c, i, j) for j in columns] for i in rows] for c in range(channels)]
