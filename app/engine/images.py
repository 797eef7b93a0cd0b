"""Photo bytes to the fixed-size array the network reads; the one path for training and serving.

Owns decoding, orientation, colour and geometry of photos. Refuses to know batches, models and HTTP. Bump
`IMAGE_PREPROCESSING_VERSION` whenever the pixels of any photo would change: bundles name the version they were trained
with and a service with another one refuses them.
"""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.engine.errors import ImageTooLargeError, UndecodableImageError, UnsupportedImageTypeError

IMAGE_PREPROCESSING_VERSION = 1

# A short allow-list keeps Pillow's dozens of rarely used parsers unreachable.
ALLOWED_FORMATS = ("JPEG", "PNG", "WEBP")

# Our own cap is checked on the header before any pixel is decoded; Pillow's would warn at another number.
Image.MAX_IMAGE_PIXELS = None

_EXIF_ORIENTATION = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_photo(data: bytes, *, height: int, width: int, max_pixels: int) -> NDArray[np.uint8]:
    """Decode an encoded photo to uint8[height, width, 3], RGB.

    JPEG, PNG and WebP; the first frame of an animation. EXIF orientation is applied, transparency laid on white, the
    shape kept by padding (`fit_photo`). All metadata is dropped.

    Raises:
        UnsupportedImageTypeError: not a JPEG, PNG or WebP file.
        ImageTooLargeError: the header names more than `max_pixels` pixels (decided before a pixel is decoded).
        UndecodableImageError: damaged or truncated.
    """
    try:
        image = Image.open(BytesIO(data), formats=ALLOWED_FORMATS)
    except Exception as error:  # Pillow's parsers raise far more than OSError on hostile files
        if _looks_allowed(data):
            raise UndecodableImageError("The photo is damaged and cannot be decoded.", field="image") from error
        raise UnsupportedImageTypeError("The photo is not a JPEG, PNG or WebP file.", field="image") from error
    with image:
        if image.width * image.height > max_pixels:
            raise ImageTooLargeError(f"The photo has more than {max_pixels} pixels; send a smaller one.", field="image")
        try:
            orientation = _orientation(image)
            # The JPEG decoder scales by 1/2, 1/4, 1/8 almost for free. At least twice the fitted size keeps the mean difference
            # from a full decode at 0.4 grey levels (600x800 to 60x80), and takes a third of the time.
            fitted_width, fitted_height = _fitted_size(image.size, height=height, width=width, orientation=orientation)
            image.draft("RGB", (2 * fitted_width, 2 * fitted_height))
            image.load()
            return fit_photo(image, height=height, width=width, orientation=orientation)
        except Exception as error:
            raise UndecodableImageError("The photo is damaged and cannot be decoded.", field="image") from error


def fit_photo(image: Image.Image, *, height: int, width: int, orientation: int = 1) -> NDArray[np.uint8]:
    """Fit a decoded photo into uint8[height, width, 3] without changing its shape.

    The photo is scaled (bicubic, antialiased) until it just fits and centred; what is left over is filled with the
    mean colour of the photo's own border, which for product shots is their background.

    `orientation` is the EXIF value, 1 to 8. Raises whatever Pillow raises on damaged pixel data.
    """
    image = _to_rgb(image)
    size = _fitted_size(image.size, height=height, width=width, orientation=orientation)
    fitted = size if orientation < 5 else (size[1], size[0])
    if image.size != size:
        # Scaling first and turning afterwards turns few pixels instead of many.
        image = image.resize(size, Image.Resampling.BICUBIC)
    if orientation in _TRANSPOSE:
        image = image.transpose(_TRANSPOSE[orientation])
    pixels = np.asarray(image, dtype=np.uint8)
    if fitted == (width, height):
        return np.array(pixels)
    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:] = _border_colour(pixels)
    top, left = (height - fitted[1]) // 2, (width - fitted[0]) // 2
    canvas[top : top + fitted[1], left : left + fitted[0]] = pixels
    return canvas


def _fitted_size(size: tuple[int, int], *, height: int, width: int, orientation: int) -> tuple[int, int]:
    """Width and height, as the file lies, of a photo that just fits once it is turned upright."""
    upright = size if orientation < 5 else (size[1], size[0])
    scale = min(width / upright[0], height / upright[1])
    fitted = (min(width, max(1, round(upright[0] * scale))), min(height, max(1, round(upright[1] * scale))))
    return fitted if orientation < 5 else (fitted[1], fitted[0])


def _looks_allowed(data: bytes) -> bool:
    return data[:3] == b"\xff\xd8\xff" or data[:8] == b"\x89PNG\r\n\x1a\n" or data[:4] + data[8:12] == b"RIFFWEBP"


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # a broken EXIF block is no reason to refuse the photo
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:  # a PNG may name one colour transparent
        return image
    if image.mode.startswith("I") or image.mode == "F":  # 16-bit grey; convert("L") would clip, not scale
        grey = np.asarray(image, dtype=np.float32)
        return Image.fromarray(np.clip(grey / 257.0 + 0.5, 0, 255).astype(np.uint8), "L").convert("RGB")
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layered).convert("RGB")
    return image.convert("RGB")


def _border_colour(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    edges = [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
    return np.asarray(np.concatenate(edges).mean(axis=0).round(), np.uint8)
