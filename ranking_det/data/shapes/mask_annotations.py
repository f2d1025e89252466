"""Convert supersampled masks to COCO's boxes, areas, polygons and uncompressed RLE."""

import cv2
import numpy as np

from ranking_det.data.shapes.paint import SUPERSAMPLING, Place


def without_crumbs(mask: np.ndarray) -> np.ndarray:
    """Remove small pieces of a mask that nobody would outline, and fill small holes.

    A piece of less than 2 square pixels or 1 % of the mask is removed, unless it is the largest. A
    hole of less than 1 square pixel is filled.

    Args:
        mask: bool, supersampled.

    Returns:
        bool, of the same shape.
    """
    cleaned = mask.astype(np.uint8)
    contours = cv2.findContours(cleaned, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[0]
    if len(contours) == 1 and len(contours[0]) > 2:
        # Most masks: one piece, no hole. (A small piece that touches at a corner may stay.)
        return mask
    count, labels, stats, _ = cv2.connectedComponentsWithStats(cleaned, connectivity=4)
    if count > 2:
        areas = stats[1:, cv2.CC_STAT_AREA]
        least = max(2 * SUPERSAMPLING**2, 0.01 * float(areas.sum()))
        large = areas >= min(least, float(areas.max()))
        cleaned = np.concatenate([[False], large])[labels].astype(np.uint8)
    padded = np.pad(1 - cleaned, 1, constant_values=1)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(padded, connectivity=4)
    small = stats[:, cv2.CC_STAT_AREA] < SUPERSAMPLING**2
    small[0] = False
    return (cleaned > 0) | small[labels][1:-1, 1:-1]


def _outlines(mask: np.ndarray) -> list[np.ndarray]:
    """Return polygons (n, 2) along the edges of the samples; cut a mask with a hole through it."""
    doubled = mask.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    contours, hierarchy = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return []
    holes = np.flatnonzero(hierarchy[0, :, 3] >= 0)
    if len(holes):
        left, _, width, _ = cv2.boundingRect(contours[holes[0]])
        cut = (left + width // 2 + 1) // 2
        right = [outline + [cut, 0] for outline in _outlines(mask[:, cut:])]
        return _outlines(mask[:, :cut]) + right
    # A doubled sample has an even and an odd row and column; (c + 1) // 2 is its outer vertex.
    corners = [cv2.approxPolyDP((c + 1) // 2, 1.01, closed=True)[:, 0] for c in contours]
    return [polygon.astype(np.float64) for polygon in corners if len(polygon) >= 3]


def polygon_annotation(mask: np.ndarray, place: Place) -> dict:
    """Return the box, area and polygons of the visible part of an object.

    All three follow the supersampled mask and so have fractions of a pixel.

    Args:
        mask: bool, supersampled, with at least one sample set.
        place: the window of the mask in the image, XYXY in whole pixels.

    Returns:
        COCO's "bbox" (x, y, width, height in pixels, tight), "area" in square pixels and
        "segmentation".
    """
    origin = np.array(place[:2])
    x0, y0, width, height = np.array(cv2.boundingRect(mask.astype(np.uint8))) / SUPERSAMPLING
    polygons = [outline / SUPERSAMPLING + origin for outline in _outlines(mask)]
    return {
        "bbox": [float(x0 + origin[0]), float(y0 + origin[1]), float(width), float(height)],
        "area": float(mask.sum()) / SUPERSAMPLING**2,
        "segmentation": [polygon.ravel().tolist() for polygon in polygons],
    }


def crowd_annotation(mask: np.ndarray, place: Place, size: int) -> dict:
    """Return the box, area and uncompressed RLE of a crowd, in whole pixels as in COCO.

    Args:
        mask: bool, supersampled.
        place: the window of the mask in the image, XYXY in whole pixels.
        size: side of the square image in pixels.

    Returns:
        COCO's "bbox" (x, y, width, height in pixels), "area" in square pixels and "segmentation".
    """
    x0, y0, x1, y1 = place
    samples = (y1 - y0, SUPERSAMPLING, x1 - x0, SUPERSAMPLING)
    pixels = np.zeros((size, size), bool)
    pixels[y0:y1, x0:x1] = mask.reshape(samples).mean((1, 3)) >= 0.5
    flat = pixels.ravel(order="F")
    # The first run counts zeros and may be 0.
    changes = np.flatnonzero(np.diff(flat, prepend=False))
    counts = np.diff(changes, prepend=0, append=flat.size).tolist()
    return {
        "bbox": [float(v) for v in cv2.boundingRect(pixels.astype(np.uint8))],
        "area": float(pixels.sum()),
        "segmentation": {"counts": counts, "size": [size, size]},
    }
