"""The documentation's examples: real requests with their answers, in one place.

Owns the example photo. It is stored as text, so that the service needs no drawing at start-up and `openapi.json` does
not depend on a compression library's version; `scripts.export_openapi` holds the drawing, and a test compares the two.
"""

from __future__ import annotations

from typing import Any

EXAMPLE_TITLE = "Puma Men Grey T-shirt"
EXAMPLE_IMAGE = (
    ""
    "iVBORw0KGgoAAAANSUhEUgAAADAAAABAAgMAAAAhThzVAAAACVBMVEX///+OkphgZGpt+IwLAAAAxUlEQVR42u3SMUoDYRCG4eefjRJSBwmksdLCS2ytjYLpcxTvoDmAnUXAVLZGTyAoIgiyhYWV2Cgkq4vNHxUbSy0cGPheBt6ZYvgTtZc70KnoPGToz+k/IhH7Z7vqydZQQXvZykmvurtScHjjaVYxmBYieNu55uUirKMeYy4ZTRfrNgq3vZzTKL5eEu4/47fJbBHbAi28thCachuTVK4KlobU3eaAgsvnNcebcX4qqKi7NLI6lVkt+z7AP/wMLaQBmqNfetx3xBIuGgTVeMMAAAAASUVORK5CYII="
)
"""A grey T-shirt, 48x64 PNG, in base64."""

BOTH = {"id": "sku-1", "image": EXAMPLE_IMAGE, "text": EXAMPLE_TITLE}
PHOTO_ONLY = {"id": "sku-2", "image": EXAMPLE_IMAGE}
TITLE_ONLY = {"id": "sku-3", "text": "Fossil Women Brown Leather Watch"}

CLASSIFY_REQUESTS: dict[str, Any] = {
    "photo_and_title": {"summary": "Photo and title", "value": {"items": [BOTH]}},
    "photo_only": {"summary": "Photo only", "value": {"items": [PHOTO_ONLY]}},
    "title_only": {"summary": "Title only", "value": {"items": [TITLE_ONLY], "top_k": 3}},
    "batch": {
        "summary": "Several items, with options",
        "value": {"items": [BOTH, PHOTO_ONLY, TITLE_ONLY], "model": "fashion", "top_k": 3, "precision": 0.95},
    },
}
EMBED_REQUESTS: dict[str, Any] = {
    "photo_and_title": {"summary": "Photo and title", "value": {"items": [BOTH]}},
    "title_only": {"summary": "A search query", "value": {"items": [TITLE_ONLY], "modality": "text"}},
    "compact": {
        "summary": "Base64, a quarter of the size",
        "value": {"items": [BOTH, PHOTO_ONLY], "model": "fashion", "encoding": "base64"},
    },
}
FORM_REQUEST: dict[str, Any] = {"text": EXAMPLE_TITLE, "id": "sku-1"}

_TSHIRT = {
    "label": "Tshirts",
    "confidence": 0.993,
    "decision": "accept",
    "candidates": [{"label": "Tshirts", "confidence": 0.993}, {"label": "Tops", "confidence": 0.004}],
}
_MODEL = {"name": "fashion", "version": "2"}
CLASSIFY_ANSWER: dict[str, Any] = {
    "model": _MODEL,
    "results": [
        {
            "index": 0,
            "id": "sku-1",
            "status": "ok",
            "inputs": ["image", "text"],
            "attributes": {"articleType": _TSHIRT},
            "agreement": {"score": 0.97, "conflicts": []},
        }
    ],
}
EMBED_ANSWER: dict[str, Any] = {
    "model": _MODEL,
    "space_id": "fashion-7c0f3a9be2d14586",
    "dimensions": 4,
    "results": [{"index": 0, "id": "sku-1", "status": "ok", "inputs": ["image", "text"], "embedding": [0.5, -0.5, 0.5, 0.5]}],
}
EXAMPLE_MODEL: dict[str, Any] = {
    "name": "fashion",
    "is_default": True,
    "version": "2",
    "versions": [{"version": "2", "state": "ready", "is_default": True}],
    "inputs": ["image", "text"],
    "attributes": {"masterCategory": ["Accessories", "Apparel"], "articleType": ["Tshirts", "Watches"]},
    "hierarchy": {
        "levels": ["masterCategory", "articleType"],
        "paths": [["Apparel", "Tshirts"], ["Accessories", "Watches"]],
    },
    "space_id": "fashion-7c0f3a9be2d14586",
    "dimensions": [32, 64, 128, 256],
    "limits": {"max_image_bytes": 10485760, "max_image_pixels": 50000000, "max_text_chars": 2000},
    "quality": {"articleType": {"both": {"accuracy": 0.955}}},
}
