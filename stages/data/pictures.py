"""PNG and JPEG files as pixels."""

from __future__ import annotations

import io
import struct

import numpy as np

from stages.data.errors import DataError, told

LOSSLESS = "lossless"
_MODES = {1: "L", 3: "RGB"}
# Pillow converts these to 8 bits by cutting off what is above 255.
_DEEP = ("I", "F")
# Table K.1 of ITU-T T.81, which the Independent JPEG Group's library scales by a quality of 1 to 100.
_LUMINANCE = (
    *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
)
_QUALITY_75 = tuple((value * 50 + 50) // 100 for value in _LUMINANCE)


def decode(place: str, content: bytes, size: int, channels: int, data: str) -> tuple[np.ndarray, str]:
    """Decodes an image of a known size.

    Args:
        place: of the image, for messages.
        content: a PNG or JPEG file.
        size: height and width that it must have, pixels.
        channels: that it must have, 1 or 3.
        data: the name of the data set.

    Returns:
        uint8, `size x size x channels`, and how it was encoded: "lossless", "JPEG q75" or "JPEG".

    Raises:
        DataError: it cannot be decoded, or has another size or other channels.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            if image.size != (size, size) or image.mode != _MODES[channels]:
                raise DataError(
                    f"{place}: the image is {image.size[0]} x {image.size[1]} pixels in mode {image.mode}, "
                    f"expected {size} x {size} in mode {_MODES[channels]}; this is not {data}, or it was converted"
                )
            pixels = np.asarray(image).reshape(size, size, channels)
            if image.format == "PNG":
                return pixels, LOSSLESS
            tables = getattr(image, "quantization", {})
            return pixels, "JPEG q75" if tuple(tables.get(0, ())) == _QUALITY_75 else "JPEG"
    except _damages() as error:
        raise _damaged(place, error) from error


def decode_square(place: str, content: bytes, size: int) -> np.ndarray:
    """Decodes an image of any size and scales it: the shorter side to `size`, the longer one cropped to its middle.

    Returns:
        uint8, `size x size x 3`.

    Raises:
        DataError: it cannot be decoded, or has more than 8 bits a channel.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            if image.mode.startswith(_DEEP):
                raise DataError(
                    f"{place}: the image is in mode {image.mode}, expected 8 bits a channel; convert it before"
                )
            return np.asarray(ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BILINEAR))
    except _damages() as error:
        raise _damaged(place, error) from error


def _damages() -> tuple[type[Exception], ...]:
    from PIL import Image

    # What Pillow's decoders raise of files that are cut off or hold nonsense.
    return OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError


def _damaged(place: str, error: Exception) -> DataError:
    return DataError(
        f"{place}: the image cannot be decoded ({told(error)}), expected a PNG or JPEG file; copy the file again"
    )
