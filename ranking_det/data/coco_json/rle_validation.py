"""Check that COCO's compressed RLE masks are complete; pycocotools does not check this.

A run-length encoding (RLE) counts the pixels of height x width, column after column: first those
outside the mask, then those inside, and so on. pycocotools compresses it to text
(https://github.com/cocodataset/cocoapi, ``rleToString``). A number is one or more characters, from
chr(48) on, with 6 bits each: 5 bits of the number, the lowest first, and bit 0x20 if another
character follows. Bit 0x10 of the last character is the sign. From the fourth run on, the number is
the difference from the run two positions earlier.
"""

from __future__ import annotations

# Seven characters: 34 bits and a sign, more than the pixels of any image.
MAX_BITS = 35


def is_whole(counts: str | bytes, area: int) -> bool:
    """Return whether a compressed mask has runs of at least 0 pixels that sum to its image's area.

    Args:
        counts: the "counts" of the mask.
        area: height x width of the image, in pixels.

    Returns:
        False if the text is cut off or damaged.
    """
    runs: list[int] = []
    number = bits = 0
    for character in counts.encode(errors="surrogatepass") if isinstance(counts, str) else counts:
        code = character - 48
        if not 0 <= code < 64:
            return False
        number |= (code & 0x1F) << bits
        bits += 5
        if not code & 0x20:
            if code & 0x10:
                number -= 1 << bits
            if len(runs) > 2:
                number += runs[-2]
            if number < 0 or bits > MAX_BITS:
                return False
            runs.append(number)
            number = bits = 0
    return bits == 0 and sum(runs) == area
