"""Whether COCO's compressed masks are whole: the libraries that decode them do not look.

A run-length encoding (RLE) counts the pixels of height x width, column after column: first those
outside the mask, then those inside, and so on. Compressed, as pycocotools writes it, a number is
one or more characters from chr(48) on: 5 bits each, the lowest first, bit 0x20 if another follows,
and the sign in bit 0x10 of the last. From the fourth run on it is the difference to the run two
before.
"""

from __future__ import annotations

# Seven characters: 34 bits and a sign, more than the pixels of any image.
MAX_BITS = 35


def is_whole(counts: str | bytes, area: int) -> bool:
    """Whether a compressed mask has runs of at least 0 pixels that sum to its image's area.

    Args:
        counts: "counts" of the mask.
        area: height x width.
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
