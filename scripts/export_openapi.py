"""Write `openapi.json`, the committed description of the HTTP API, from the code.

    python -m scripts.export_openapi            write it
    python -m scripts.export_openapi --check    exit 1 if the committed file differs

Also owns the drawing behind the documentation's example photo; the service stores its bytes and draws nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from PIL import Image, ImageDraw

from app.main import create_app
from app.settings import Settings

OPENAPI_PATH = Path(__file__).parent.parent / "openapi.json"


def render_openapi() -> str:
    """The document as text, keys in the order of the code."""
    return json.dumps(create_app(Settings()).openapi(), indent=1, ensure_ascii=False) + "\n"


def draw_example_photo() -> Image.Image:
    """A grey T-shirt on white, 48x64 pixels, eight colours."""
    photo = Image.new("RGB", (48, 64), "white")
    pen = ImageDraw.Draw(photo)
    outline = [
        (16, 10),
        (20, 13),
        (28, 13),
        (32, 10),
        (44, 18),
        (39, 27),
        (34, 24),
        (34, 54),
        (14, 54),
        (14, 24),
        (9, 27),
        (4, 18),
    ]
    pen.polygon(outline, fill=(142, 146, 152), outline=(96, 100, 106))
    pen.arc((19, 7, 29, 16), 0, 180, fill=(96, 100, 106))
    pen.line((22, 28, 30, 24), fill="white", width=2)
    return photo.quantize(8)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write openapi.json from the code.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the committed file differs")
    options = parser.parse_args(arguments)
    text = render_openapi()
    if options.check:
        if OPENAPI_PATH.read_text("utf-8") != text:
            print("openapi.json is out of date: run `python -m scripts.export_openapi`", file=sys.stderr)
            return 1
        return 0
    OPENAPI_PATH.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
