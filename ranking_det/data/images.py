"""Read image files by one set of rules: EXIF rotation, pixel formats, size limit, broken files.

Training, evaluation, preview and prediction read images with :func:`read_upright`.
"""

from __future__ import annotations

import errno
import functools
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

logger = logging.getLogger(__name__)

Size = tuple[int, int]

IMAGE_SUFFIXES = frozenset(
    ".avif .bmp .dib .gif .jfif .jp2 .jpe .jpeg .jpg .mpo .pbm .pgm .png .pnm .ppm .tga .tif .tiff "
    ".webp".split()
)
"""The extensions of image files, in lower case."""

_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# EPS runs Ghostscript on the file, which can run code. Pillow cannot decode the others.
_EXCLUDED = ("EPS", "BUFR", "GRIB", "HDF5", "MPEG", "WMF")
# Tried first, because Pillow has no quick test for some of the other formats.
_COMMON = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


class UnreadableImageError(ValueError):
    """An image file that cannot be decoded; the message is the reason, without the path."""


class TooManyPixelsError(UnreadableImageError):
    """An image with more pixels than :func:`max_pixels`."""


class Header(NamedTuple):
    """The header of an image file.

    Attributes:
        stored: (width, height) in pixels before the EXIF rotation.
        upright: (width, height) in pixels after it.
        mode: Pillow's mode, such as "RGB".
    """

    stored: Size
    upright: Size
    mode: str


def set_max_pixels(count: int | None) -> None:
    """Set the limit on the pixels of an image for this process and its data loading workers.

    Args:
        count: the maximum number of pixels, >= 1; None to leave the limit as it is.
    """
    if count is None:
        return
    # Pillow raises an error above twice its limit, which may be a fraction, and warns above the
    # limit itself.
    Image.MAX_IMAGE_PIXELS = count / 2  # type: ignore[assignment]
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    names = dict.fromkeys((*_COMMON, *Image.ID))
    return tuple(name for name in names if name in Image.ID and name not in _EXCLUDED)


def is_image(path: str) -> bool:
    """Return whether Pillow recognizes the content of a file as an image that it can decode.

    Args:
        path: the file. Its extension does not matter.
    """
    try:
        with Image.open(path, formats=_formats()):
            return True
    except UnidentifiedImageError:
        return False
    except Exception:  # a broken image
        return True


def has_image_extension(path: str) -> bool:
    """Return whether a file has the extension of an image format.

    Args:
        path: the file, which need not exist.
    """
    return Path(path).suffix.lower() in IMAGE_SUFFIXES


def read_header(path: str) -> Header:
    """Read the header of an image file.

    Args:
        path: the image file.

    Raises:
        UnreadableImageError: the file is not an image, has too many pixels, or is broken.
        OSError: the file is missing or the system cannot read it.
    """
    with _open(path) as image:
        # Pillow would decode a whole PNG to look for an EXIF block at its end.
        has_exif = image.format != "PNG" or "exif" in image.info
        sideways = has_exif and _orientation(image) in _SIDEWAYS
        upright = image.size[::-1] if sideways else image.size
        return Header(image.size, upright, image.mode)


def check_whole(path: str) -> None:
    """Check that a whole image file can be decoded.

    Args:
        path: the image file.

    Raises:
        UnreadableImageError: the file is not an image, has too many pixels, or is broken.
        OSError: the file is missing or the system cannot read it.
    """
    with _open(path) as image:
        _check_mode(image)
        image.draft(None, (1, 1))  # a JPEG at an eighth of its size, which is faster
        image.load()
        if image.mode.startswith("I"):
            _to_8_bits(image, path)


def read_upright(path: str, size: Size | None = None) -> Image.Image:
    """Read an image, apply its EXIF rotation, and scale 16-bit pixels to 8 bits.

    16-bit values are divided by 256, as OpenCV does; Pillow would clip them, which makes almost all
    of the image white.

    Args:
        path: the image file.
        size: (width, height) in the annotations. If the image has this size only before its EXIF
            rotation, the rotation is not applied. None to always apply it.

    Returns:
        The decoded image, in a mode that Pillow converts to RGB.

    Raises:
        UnreadableImageError: the file is not an image, has too many pixels or pixels of an unknown
            range, or is broken.
        OSError: the file is missing or the system cannot read it.
    """
    with _open(path) as image:
        _check_mode(image)
        image.load()
        orientation = _orientation(image)
        swapped = orientation in _SIDEWAYS and image.width != image.height
        if swapped and size is not None and tuple(size) == image.size:
            orientation = 1
        result: Image.Image = image
        if image.mode.startswith("I"):
            result = _to_8_bits(image, path)
        if orientation in _TRANSPOSE:
            result = result.transpose(_TRANSPOSE[orientation])
        return result


def read_gray(path: str, side: int) -> Image.Image:
    """Read an image in shades of gray; a JPEG is decoded at a reduced size, which is faster.

    Args:
        path: the image file.
        side: the width and height in pixels that a reduced image must have at least.

    Returns:
        The image in mode "L", before its EXIF rotation.

    Raises:
        UnreadableImageError: the file is not an image, has too many pixels, or is broken.
        OSError: the file is missing or the system cannot read it.
    """
    with _open(path) as image:
        image.draft("L", (side, side))
        return image.convert("L")


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(_ORIENTATION)
    except Exception:  # a broken EXIF block; the pixels are not affected
        return None


def _check_mode(image: Image.Image) -> None:
    if image.mode.startswith("F"):
        raise UnreadableImageError("it has floating-point pixels; save it with 8 or 16 bits")


def _to_8_bits(image: Image.Image, path: str) -> Image.Image:
    """Divide the values of a 16-bit image by 256; keep 8-bit values that are stored in 32 bits."""
    values = np.asarray(image).astype(np.int64)
    lowest, highest = int(values.min()), int(values.max())
    if image.mode == "I" and (lowest < 0 or highest > 65535):
        text = f"expected pixel values from 0 to 65535, got {lowest} to {highest}"
        raise UnreadableImageError(f"{text}; save it with 8 or 16 bits")
    if image.mode != "I" or highest > 255:
        _warn_of_16_bits(path, highest)
        values >>= 8
    return Image.fromarray(values.astype(np.uint8))


_WARNED: list[str] = []  # the first image with 16 bits; a warning for each would flood the log


def _warn_of_16_bits(path: str, highest: int) -> None:
    if not _WARNED:
        _WARNED.append(path)
        text = "images with 16 bits are divided by 256; the first is %s, with values up to %d"
        logger.warning(text, path, highest)


@contextmanager
def _open(path: str) -> Iterator[Image.Image]:
    """Open an image file; :func:`_reading_error` replaces the errors inside the context."""
    try:
        with Image.open(path, formats=_formats()) as image:
            yield image
    except Exception as error:  # Pillow's readers raise many kinds
        raise _reading_error(error, path) from error


def _reading_error(error: Exception, path: str) -> Exception:
    """Return the exception to raise for an error in reading an image."""
    if isinstance(error, (UnreadableImageError, MemoryError)):
        return error
    if isinstance(error, UnidentifiedImageError):
        return UnreadableImageError(_unknown_format(path))
    if isinstance(error, Image.DecompressionBombError):
        return TooManyPixelsError(
            f"it has more than {max_pixels():.0f} pixels; --max-pixels N permits up to N"
        )
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
        return error
    return UnreadableImageError(" ".join(str(error).split()) or type(error).__name__)


def max_pixels() -> float:
    """Return the limit on the pixels of an image; infinity without one."""
    limit = Image.MAX_IMAGE_PIXELS
    return math.inf if limit is None else 2 * limit


def _unknown_format(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            start = file.read(256)
    except (OSError, ValueError):
        start = b"?"
    if not start:
        return "the file is empty"
    if start.startswith(_TIFF):
        return "a TIFF of a kind that Pillow cannot read; save it with 1, 3 or 4 channels of 8 bits"
    if b"<html" in start.lower() or start.lower().lstrip().startswith(b"<!doctype"):
        return "a web page, not an image"
    return "not an image, or an unknown format"
