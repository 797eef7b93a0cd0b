"""Photos that nobody should send, made in code from a seed: damaged, lying, huge and odd ones.

Owns the corpus and nothing of what is expected of it.
"""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms

JPEG_SOI, PNG_SIGNATURE = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"


def encode(image: Image.Image, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def drawing(height: int = 64, width: int = 48) -> Image.Image:
    """A picture with structure in each channel."""
    rows, columns = np.arange(height)[:, None], np.arange(width)[None, :]
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:, :, 0] = 255 * rows // height
    pixels[:, :, 1] = 255 * columns // width
    pixels[:, :, 2] = rows.astype(np.uint8) * columns.astype(np.uint8)  # modulo 256, in bytes all along
    return Image.fromarray(pixels)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"", interlace: int = 0) -> bytes:
    """A PNG of packed rows, each with its filter byte; `extra` chunks stand before the pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    packed = png_chunk(b"IDAT", zlib.compress(rows, 9))
    return PNG_SIGNATURE + png_chunk(b"IHDR", header) + extra + packed + png_chunk(b"IEND", b"")


def jpeg_segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def webp_chunk(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def webp(*chunks: bytes) -> bytes:
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tiff(entries: list[tuple[int, int, int, bytes]], tail: bytes = b"") -> bytes:
    """An EXIF block: (tag, type, count, four bytes of value or offset)."""
    packed = b"".join(struct.pack(">HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"MM\0*" + struct.pack(">IH", 8, len(entries)) + packed + struct.pack(">I", 0) + tail


def many_scans(scans: int, height: int = 64, width: int = 48) -> bytes:
    """A progressive JPEG of one colour whose last scan is repeated. Small, yet decoders work through each."""
    data = encode(Image.new("RGB", (width, height), "brown"), "JPEG", progressive=True, quality=30)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + data[-2:]


@cache
def valid_photos() -> dict[str, bytes]:
    """One of each kind that has to be answered, by name."""
    image = drawing()
    grey = image.convert("L")
    deep = np.asarray(grey).astype(np.uint16) * 257
    alpha = image.convert("RGBA")
    alpha.putalpha(grey)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    second = Image.new("RGB", image.size, "blue")
    deep_rgb = np.concatenate([np.zeros((64, 1), np.uint8), np.repeat(np.asarray(image), 2, axis=2).reshape(64, -1)], axis=1)
    deep_rgba = np.concatenate([np.zeros((64, 1), np.uint8), np.repeat(np.asarray(alpha), 2, axis=2).reshape(64, -1)], axis=1)
    photos = {
        "baseline.jpg": encode(image, "JPEG"),
        "progressive.jpg": encode(image, "JPEG", progressive=True),
        "444.jpg": encode(image, "JPEG", subsampling=0, quality=100),
        "grey.jpg": encode(grey, "JPEG"),
        "cmyk.jpg": encode(image.convert("CMYK"), "JPEG"),
        "cmyk-progressive.jpg": encode(image.convert("CMYK"), "JPEG", progressive=True),
        "restarts.jpg": encode(image, "JPEG", restart_marker_blocks=1),
        "icc.jpg": encode(image, "JPEG", icc_profile=srgb),
        "wrong-icc.jpg": encode(image, "JPEG", icc_profile=lab),
        "long-icc.jpg": encode(image, "JPEG", icc_profile=srgb + bytes(300_000)),
        "comment.jpg": encode(image, "JPEG", comment=b"c" * 60_000),
        "several.jpg": encode(image, "MPO", save_all=True, append_images=[second]),
        "trailer.jpg": encode(image, "JPEG") + random.Random(1).randbytes(100_000),
        "twice.jpg": encode(image, "JPEG") * 2,
        "many-scans.jpg": many_scans(60),
        "fill.jpg": encode(image, "JPEG").replace(b"\xff\xdb", b"\xff\xff\xff\xdb", 1),
        "rgb.png": encode(image, "PNG"),
        "rgba.png": encode(alpha, "PNG"),
        "grey.png": encode(grey, "PNG"),
        "la.png": encode(alpha.convert("LA"), "PNG"),
        "palette.png": encode(image.quantize(32), "PNG"),
        "palette-transparent.png": encode(alpha.quantize(32), "PNG"),
        "one-bit.png": encode(grey.convert("1"), "PNG"),
        "colour-key.png": encode(image, "PNG", transparency=(0, 0, 0)),
        "i16.png": encode(Image.fromarray(deep), "PNG"),
        "rgb16.png": png(48, 64, 16, 2, deep_rgb.tobytes()),
        "rgba16.png": png(48, 64, 16, 6, deep_rgba.tobytes()),
        "two-bit.png": png(8, 4, 2, 0, b"\0\x1b\x1b" * 4),
        "text.png": png(8, 4, 8, 0, bytes(36), png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"t" * 500_000))),
        "animated.png": encode(image, "PNG", save_all=True, append_images=[second]),
        "no-end.png": encode(image, "PNG")[:-12],
        "lossy.webp": encode(image, "WEBP"),
        "lossless.webp": encode(image, "WEBP", lossless=True),
        "alpha.webp": encode(alpha, "WEBP"),
        "icc.webp": encode(image, "WEBP", icc_profile=srgb),
        "animated.webp": encode(image, "WEBP", save_all=True, append_images=[second]),
    }
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        photos[f"turned-{orientation}.jpg"] = encode(image, "JPEG", exif=exif)
        photos[f"turned-{orientation}.png"] = encode(image, "PNG", exif=exif)
        photos[f"turned-{orientation}.webp"] = encode(image, "WEBP", exif=exif)
    return photos


def hostile_photos() -> Iterator[tuple[str, bytes]]:
    """Files that lie, in ways that a mutation would hardly hit."""
    image = drawing(8, 8)
    jpeg, plain_png, plain_webp = (encode(image, image_format) for image_format in ("JPEG", "PNG", "WEBP"))
    frame = jpeg.index(b"\xff\xc0")
    for name, size in (("zero", b"\0\0\0\0"), ("flat", b"\0\0\0\x08"), ("huge", b"\xff\xff\xff\xff")):
        yield f"{name}.jpg", jpeg[: frame + 5] + size + jpeg[frame + 9 :]
    yield "no-components.jpg", jpeg[: frame + 9] + b"\0" + jpeg[frame + 10 :]
    yield "no-sampling.jpg", jpeg[: frame + 11] + b"\0" + jpeg[frame + 12 :]
    yield "twelve-bit.jpg", jpeg[: frame + 4] + b"\x0c" + jpeg[frame + 5 :]
    for kind in (0xC1, 0xC3, 0xC5, 0xC9, 0xCA, 0xCB, 0xCF):
        yield f"frame-{kind:x}.jpg", jpeg[: frame + 1] + bytes([kind]) + jpeg[frame + 2 :]
    yield "two-frames.jpg", jpeg[:frame] + jpeg[frame : frame + 19] + jpeg[frame:]
    yield "short-segment.jpg", JPEG_SOI + b"\xff\xe0\0\0" + jpeg[2:]
    yield "endless-segment.jpg", JPEG_SOI + b"\xff\xe1\xff\xff" + jpeg[2:]
    yield "junk.jpg", JPEG_SOI + b"\0" * 500 + jpeg[2:]
    yield "many-exif.jpg", JPEG_SOI + jpeg_segment(0xE1, b"Exif\0\0" + b"x" * 4) * 20_000 + jpeg[2:]
    yield "many-comments.jpg", JPEG_SOI + jpeg_segment(0xFE, b"") * 100_000 + jpeg[2:]
    entries = [(1000 + i, 7, 60_000, struct.pack(">I", 8)) for i in range(4000)]
    yield "wide-exif.jpg", JPEG_SOI + jpeg_segment(0xE1, b"Exif\0\0" + tiff(entries)) + jpeg[2:]
    yield (
        "php.jpg",
        JPEG_SOI + jpeg_segment(0xE1, b"Exif\0\0" + tiff([(0x112, 2, 60, struct.pack(">I", 26))], b"<?php" * 20)) + jpeg[2:],
    )
    yield "loop.jpg", JPEG_SOI + jpeg_segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\x08") + jpeg[2:]
    yield "icc-parts.jpg", JPEG_SOI + jpeg_segment(0xE2, b"ICC_PROFILE\0\x07\x01x") * 3 + jpeg[2:]
    yield "photoshop.jpg", JPEG_SOI + jpeg_segment(0xED, b"Photoshop 3.0\x008BIM\xff\xff\xff") + jpeg[2:]
    yield "mpf.jpg", JPEG_SOI + jpeg_segment(0xE2, b"MPF\0" + tiff([(0xB001, 4, 1, b"\xff\xff\xff\xff")])) + jpeg[2:]
    yield "dpi.jpg", JPEG_SOI + jpeg_segment(0xE0, b"JFIF\0\x01\x01\x01") + jpeg[2:]
    for name, width, height in (("zero", 0, 0), ("flat", 8, 0), ("huge", 2**31 - 1, 2**31 - 1), ("over", 2**32 - 1, 2**32 - 1)):
        yield f"{name}.png", png(width, height, 8, 2, bytes(25))
    for depth, colour in ((3, 0), (16, 3), (8, 1), (8, 5), (1, 6), (0, 0), (255, 255)):
        yield f"depth-{depth}-{colour}.png", png(8, 8, depth, colour, bytes(600))
    yield "interlace-9.png", png(8, 8, 8, 2, bytes(300), interlace=9)
    yield "empty-palette.png", png(8, 8, 8, 3, bytes(72), png_chunk(b"PLTE", b""))
    yield "no-palette.png", png(8, 8, 8, 3, bytes(72))
    yield (
        "short-chunks.png",
        png(
            8,
            8,
            8,
            2,
            bytes(200),
            b"".join(
                png_chunk(k, b"") for k in (b"tRNS", b"gAMA", b"cHRM", b"pHYs", b"sRGB", b"iCCP", b"eXIf", b"acTL", b"fcTL")
            ),
        ),
    )
    yield "text-bomb.png", png(8, 8, 8, 2, bytes(200), png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 20), 9)) * 80)
    yield "icc-bomb.png", png(8, 8, 8, 2, bytes(200), png_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(1 << 24), 9)))
    yield "many-chunks.png", png(8, 8, 8, 2, bytes(200), png_chunk(b"teSt", b"") * 50_000)
    yield "critical.png", png(8, 8, 8, 2, bytes(200), png_chunk(b"TEST", b"x"))
    yield "bad-checksum.png", plain_png[:29] + b"\0\0\0\0" + plain_png[33:]
    yield "frames.png", png(8, 8, 8, 2, bytes(200), png_chunk(b"acTL", struct.pack(">II", 2**31, 0)))
    yield "profile.png", png(8, 8, 8, 2, bytes(200), png_chunk(b"tEXt", b"Raw profile type exif\0\n\n\nzz"))
    yield "xmp.png", png(8, 8, 8, 2, bytes(200), png_chunk(b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<a tiff:Orientation="9"/>'))
    yield "canvas.webp", webp(webp_chunk(b"VP8X", b"\x02\0\0\0\xff\xff\xff\xff\xff\xff"))
    yield "canvas-and-picture.webp", webp(webp_chunk(b"VP8X", b"\0\0\0\0\xff\x3f\0\xff\x3f\0"), plain_webp[12:])
    yield "zero.webp", webp(webp_chunk(b"VP8 ", plain_webp[20:26] + b"\0\0\0\0" + plain_webp[30:]))
    yield "huge-lossless.webp", webp(webp_chunk(b"VP8L", b"\x2f\xff\xff\xff\xff" + bytes(20)))
    yield "lying-length.webp", plain_webp[:16] + b"\xff\xff\xff\xff" + plain_webp[20:]
    yield "many-chunks.webp", webp(webp_chunk(b"VP8X", bytes(10)), *[webp_chunk(b"XXXX", b"")] * 20_000, plain_webp[12:])
    yield "other-kind.webp", webp(webp_chunk(b"VP9 ", bytes(30)))
    for first, second in ((jpeg, plain_png), (plain_png, jpeg), (plain_webp, plain_png), (jpeg, b"PK\x03\x04")):
        yield "polyglot", first + second
    yield "head-of-another.jpg", JPEG_SOI + b"\xff" + plain_png
    yield "head-of-another.png", PNG_SIGNATURE + jpeg
    yield "gif-inside", b"RIFF\0\0\0\0WEBPGIF89a" + bytes(100)


def mutations(count: int, seed: int) -> Iterator[bytes]:
    """Valid photos cut short, with bytes changed, bits flipped, parts removed, doubled, or taken from another."""
    chance = random.Random(seed)
    photos = [photo for photo in valid_photos().values() if len(photo) < 50_000]
    for number in range(count):
        photo = bytearray(chance.choice(photos))
        # Half of the damage falls into the head, where the structure is.
        reach = len(photo) if chance.random() < 0.5 else min(len(photo), 200)
        for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
            at, size = chance.randrange(reach), chance.choice((1, 1, 2, 4, 16))
            match number % 7:
                case 0:
                    del photo[max(3, at) :]
                case 1:
                    photo[at : at + size] = chance.randbytes(size)
                case 2:
                    photo[at % len(photo)] ^= 1 << chance.randrange(8)
                case 3:
                    del photo[at : at + size]
                case 4:
                    photo[at:at] = photo[at : at + 40 * size]
                case 5:
                    other = chance.choice(photos)
                    photo[at : at + 20 * size] = other[at : at + 20 * size]
                case _:
                    photo[at : at + size] = chance.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * size
            reach = max(1, min(reach, len(photo)))
            if not photo:
                break
        yield bytes(photo)
