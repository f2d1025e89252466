"""Convert supersampled masks to COCO's boxes, areas, polygons and uncompressed RLE."""

import cv2
import numpy as np

from ranking_det.data.shapes.paint import SUPERSAMPLING, Window


def remove_small_pieces(mask: np.ndarray) -> np.ndarray:
    """Remove pieces of a mask that are too small for an annotator to outline; fill small holes.

    A piece of less than 2 square pixels or 1% of the mask is removed, unless it is the largest. A
    hole of less than 1 square pixel is filled.

    Args:
        mask: bool, supersampled.

    Returns:
        bool, of the same shape.
    """
    cleaned = mask.astype(np.uint8)
    contours = cv2.findContours(cleaned, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[0]
    if len(contours) == 1 and len(contours[0]) > 2:
        # Fast path: most masks are one piece without holes. A small piece that touches
        # the large one only at a corner may stay.
        return mask
    count, labels, stats, _ = cv2.connectedComponentsWithStats(cleaned, connectivity=4)
    if count > 2:
        areas = stats[1:, cv2.CC_STAT_AREA]
        min_area = max(2 * SUPERSAMPLING**2, 0.01 * float(areas.sum()))
        is_large = areas >= min(min_area, float(areas.max()))
        cleaned = np.concatenate([[False], is_large])[labels].astype(np.uint8)
    padded = np.pad(1 - cleaned, 1, constant_values=1)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(padded, connectivity=4)
    is_small = stats[:, cv2.CC_STAT_AREA] < SUPERSAMPLING**2
    is_small[0] = False
    return (cleaned > 0) | is_small[labels][1:-1, 1:-1]


def _outlines(mask: np.ndarray) -> list[np.ndarray]:
    """Return polygons (n, 2) along the edges of the samples.

    Cut a mask with a hole into two parts, along a line through the hole.
    """
    doubled = mask.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    contours, hierarchy = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return []
    holes = np.flatnonzero(hierarchy[0, :, 3] >= 0)
    if len(holes):
        left, _, width, _ = cv2.boundingRect(contours[holes[0]])
        cut_column = (left + width // 2 + 1) // 2
        right_outlines = [outline + [cut_column, 0] for outline in _outlines(mask[:, cut_column:])]
        return _outlines(mask[:, :cut_column]) + right_outlines
    # After doubling, sample k covers rows 2k and 2k + 1; (c + 1) // 2 maps a contour point to the
    # outer vertex of its sample.
    corners = [cv2.approxPolyDP((c + 1) // 2, 1.01, closed=True)[:, 0] for c in contours]
    return [polygon.astype(np.float64) for polygon in corners if len(polygon) >= 3]


def polygon_annotation(mask: np.ndarray, window: Window) -> dict:
    """Return the box, area and polygons of the visible part of an object.

    All three follow the supersampled mask and have sub-pixel precision.

    Args:
        mask: bool, supersampled, with at least one sample set.
        window: the window of the mask in the image, XYXY in whole pixels.

    Returns:
        COCO's "bbox" (x, y, width, height in pixels, tight), "area" in square pixels and
        "segmentation".
    """
    origin = np.array(window[:2])
    x0, y0, width, height = np.array(cv2.boundingRect(mask.astype(np.uint8))) / SUPERSAMPLING
    polygons = [outline / SUPERSAMPLING + origin for outline in _outlines(mask)]
    return {
        "bbox": [float(x0 + origin[0]), float(y0 + origin[1]), float(width), float(height)],
        "area": float(mask.sum()) / SUPERSAMPLING**2,
        "segmentation": [polygon.ravel().tolist() for polygon in polygons],
    }


def crowd_annotation(mask: np.ndarray, window: Window, size: int) -> dict:
    """Return the box, area and uncompressed RLE of a crowd, rounded to whole pixels as in COCO.

    Args:
        mask: bool, supersampled.
        window: the window of the mask in the image, XYXY in whole pixels.
        size: side of the square image in pixels.

    Returns:
        COCO's "bbox" (x, y, width, height in pixels), "area" in square pixels and "segmentation".
    """
    x0, y0, x1, y1 = window
    samples = (y1 - y0, SUPERSAMPLING, x1 - x0, SUPERSAMPLING)
    pixels = np.zeros((size, size), bool)
    pixels[y0:y1, x0:x1] = mask.reshape(samples).mean((1, 3)) >= 0.5
    flat = pixels.ravel(order="F")
    # RLE starts with a run of zeros, whose length may be 0.
    changes = np.flatnonzero(np.diff(flat, prepend=False))
    counts = np.diff(changes, prepend=0, append=flat.size).tolist()
    return {
        "bbox": [float(v) for v in cv2.boundingRect(pixels.astype(np.uint8))],
        "area": float(pixels.sum()),
        "segmentation": {"counts": counts, "size": [size, size]},
    }
