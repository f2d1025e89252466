"""Reference implementations: loops over Python numbers, from the papers' equations."""

import itertools
import math


def iou(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    inter = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
    return inter / union if union > 0 else 0.0


def soft_nms(boxes, scores, classes, method, iou_thresh, sigma):
    """Soft-NMS per class: return (index, lowered score) of all boxes, by descending score."""
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


def fast_nms(boxes, scores, classes, iou_thresh, topk):
    """Fast NMS per class: return the indices of the survivors, by descending score."""
    order, entrants = sorted(range(len(scores)), key=lambda i: -scores[i]), {}
    for i in order:
        if len(entrants.setdefault(classes[i], [])) < topk:
            entrants[classes[i]].append(i)

    def survives(i):
        same = entrants[classes[i]]
        return i in same and all(
            iou(boxes[i], boxes[j]) <= iou_thresh for j in same[: same.index(i)]
        )

    return [i for i in order if survives(i)]


def vote(survivors, boxes, scores, classes, min_iou, sigma):
    """Score voting: average the boxes of a class, weighted by score and IoU."""
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
    """Upsample nested lists (C, H, W) with kernels (g k k, s H, s W): CARAFE, section 3.3."""
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


def deformable_conv(features, predicted, layer):
    """Sum over the 9 positions of the kernel, each sampled bilinearly, with zeros outside."""
    images, channels, height, width = features.shape
    outputs, per_group = layer.weight.shape[:2]
    groups = predicted.shape[1] // 27
    result = features.new_zeros(images, outputs, *predicted.shape[2:])
    for n, o, i, j in itertools.product(*map(range, result.shape)):
        total = 0.0 if layer.bias is None else layer.bias[o].item()
        first = o // (outputs // (channels // per_group)) * per_group
        for c, k in itertools.product(range(per_group), range(9)):
            group = (first + c) // (channels // groups)
            row, column = divmod(k, 3)
            y = i * layer.stride[0] - layer.padding[0] + row * layer.dilation[0]
            x = j * layer.stride[1] - layer.padding[1] + column * layer.dilation[1]
            y += predicted[n, 18 * group + 2 * k, i, j].item()
            x += predicted[n, 18 * group + 2 * k + 1, i, j].item()
            mask = 1 / (1 + math.exp(-predicted[n, 18 * groups + 9 * group + k, i, j].item()))
            pixel = bilinear(features[n, first + c].tolist(), y, x)
            total += layer.weight[o, c, row, column].item() * mask * pixel
        result[n, o, i, j] = total
    return result


def bilinear(image, y, x):
    total = 0.0
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < len(image) and 0 <= column < len(image[0]):
                total += (1 - abs(y - row)) * (1 - abs(x - column)) * image[row][column]
    return total


def mask_iou(a, b):
    """IoU of two masks, each a set of pixels."""
    return len(a & b) / len(a | b) if a | b else 0.0


def matrix_nms(masks, scores, classes, kernel, sigma):
    """Matrix NMS (SOLOv2): the lowered score of each mask, a set of pixels."""

    def f(overlap):
        return math.exp(-sigma * overlap**2) if kernel == "gaussian" else 1 - overlap

    def above(j):
        """Masks of the class of j with a higher score, or with the same and a lower index."""
        return [
            i
            for i in range(len(masks))
            if classes[i] == classes[j] and (-scores[i], i) < (-scores[j], j)
        ]

    lowered = []
    for j in range(len(masks)):
        factors = [1.0]
        for i in above(j):
            compensation = f(max([0.0, *(mask_iou(masks[k], masks[i]) for k in above(i))]))
            if compensation > 0:  # otherwise a mask above i is equal to i, and suppresses the same
                factors.append(f(mask_iou(masks[i], masks[j])) / compensation)
        lowered.append(scores[j] * min(factors))
    return lowered


def points_nms(scores):
    """Points NMS of the scores [row][column] of one class."""
    return [
        [
            value
            if all(
                scores[y][x] <= value
                for y, x in ((i - 1, j), (i, j - 1), (i - 1, j - 1))
                if y >= 0 and x >= 0
            )
            else 0.0
            for j, value in enumerate(row)
        ]
        for i, row in enumerate(scores)
    ]
