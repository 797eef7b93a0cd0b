"""Photo bytes to the fixed-size array the network reads; the one path for training and serving.

Owns decoding, orientation, colour and geometry of photos. Refuses to know batches, models and HTTP. Bump
`IMAGE_PREPROCESSING_VERSION` whenever the pixels of any photo would change by more than the replay of golden photos allows:
bundles name the version they were trained with and a service with another one refuses them.
"""

from __future__ import annotations

import warnings
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.engine.errors import ImageTooLargeError, UndecodableImageError, UnsupportedImageTypeError
from app.engine.photo_header import is_photo, is_thin

IMAGE_PREPROCESSING_VERSION = 1

# A short allow-list keeps Pillow's dozens of rarely used parsers unreachable.
ALLOWED_FORMATS = ("JPEG", "PNG", "WEBP")

# Our own cap is checked on the header before any pixel is decoded; Pillow's would warn at another number.
Image.MAX_IMAGE_PIXELS = None
# Broken metadata is no news to anybody. Each new wording would also stay in memory for good: they hold numbers from the file.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

# Anything but plain RGB is converted and narrowed in strips of this many pixels, so that a large picture is held once.
_STRIP_PIXELS = 1 << 20

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
    except MemoryError:
        raise takes_too_much() from None
    except Exception as error:  # Pillow's parsers raise far more than OSError on hostile files
        if is_photo(data):
            raise is_damaged() from error
        raise is_no_photo() from error
    with image:
        check_pixels(image.width * image.height, max_pixels)
        try:
            if image.format == "PNG":
                # Pillow reads the whole file to look for a PNG's EXIF. That failure is the photo's and not its metadata's, and
                # would not come a second time: what was read of the pixels, black to the end, would pass for the photo.
                image.load()
            orientation = _orientation(image)
            # The JPEG decoder scales by 1/2, 1/4, 1/8 almost for free. At least twice the fitted size keeps the mean difference
            # from a full decode at 0.4 grey levels (600x800 to 60x80), and takes a third of the time.
            fitted_width, fitted_height = _fitted_size(image.size, height=height, width=width, orientation=orientation)
            image.draft("RGB", (2 * fitted_width, 2 * fitted_height))
            image.load()
            return fit_photo(image, height=height, width=width, orientation=orientation)
        except MemoryError:
            raise takes_too_much() from None
        except Exception as error:
            raise is_damaged() from error


def check_pixels(pixels: int, max_pixels: int) -> None:
    """Raises ImageTooLargeError."""
    if pixels > max_pixels:
        raise ImageTooLargeError(f"The photo has more than {max_pixels} pixels; send a smaller one.", field="image")


def is_no_photo() -> UnsupportedImageTypeError:
    return UnsupportedImageTypeError("The photo is not a JPEG, PNG or WebP file.", field="image")


def is_damaged() -> UndecodableImageError:
    return UndecodableImageError("The photo is damaged and cannot be decoded.", field="image")


def takes_too_much() -> ImageTooLargeError:
    return ImageTooLargeError(
        "The photo takes more time or memory to decode than the service gives; send a smaller one, or a plain JPEG.",
        field="image",
    )


def fit_photo(image: Image.Image, *, height: int, width: int, orientation: int = 1) -> NDArray[np.uint8]:
    """Fit a decoded photo into uint8[height, width, 3] without changing its shape.

    The photo is scaled (bicubic, antialiased) until it just fits and centred; what is left over is filled with the
    mean colour of the photo's own border, which for product shots is their background.

    `orientation` is the EXIF value, 1 to 8. Raises whatever Pillow raises on damaged pixel data.
    """
    size = _fitted_size(image.size, height=height, width=width, orientation=orientation)
    fitted = size if orientation < 5 else (size[1], size[0])
    if image.width * image.height <= _STRIP_PIXELS:
        image = _to_rgb(image)
    else:
        image = _to_narrow_rgb(image, image.width if is_thin(*image.size) else size[0])
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


def _to_narrow_rgb(image: Image.Image, width: int) -> Image.Image:
    """`_to_rgb`, scaled to `width` and full height; what a resize makes on its way, to the bit, without a second full copy."""
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    narrow = Image.new("RGB", (width, image.height))
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        strip = _to_rgb(image.crop((0, top, image.width, min(top + rows, image.height))))
        narrow.paste(strip.resize((width, strip.height), Image.Resampling.BICUBIC), (0, top))
    return narrow


def _border_colour(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    edges = [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
    return np.asarray(np.concatenate(edges).mean(axis=0).round(), np.uint8)
