"""`/docs`, `/docs/errors` and their files: documentation that works with no internet.

Owns the two pages, their files (Swagger UI is vendored, with its licence) and the content policy under which they run.
"""

from __future__ import annotations

import re
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response

from app.errors import ERRORS_PATH, PROBLEMS, ProblemError

router = APIRouter(include_in_schema=False)

_STATIC = Path(__file__).parent / "static"
_MEDIA_TYPES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
    "docs.js": "text/javascript",
    "errors.css": "text/css",
}
# Swagger UI sets style attributes and inlines its icons; everything else comes from this service alone.
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src "
    "'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}
_FILE_HEADERS = {"Cache-Control": "public, max-age=3600"}

_DOCS_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Itemlens</title>
<link rel="icon" type="image/png" href="docs/static/favicon-32x32.png">
<link rel="stylesheet" href="docs/static/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/static/swagger-ui-bundle.js"></script>
<script src="docs/static/docs.js"></script>
</body>
</html>
"""

_ERRORS_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Itemlens: errors</title>
<link rel="icon" type="image/png" href="static/favicon-32x32.png">
<link rel="stylesheet" href="static/errors.css">
</head>
<body>
<h1>Errors</h1>
<p>Every failure is an <code>application/problem+json</code> document whose <code>code</code> is one of these and does
not change. In a request with several items, an error of one item is that item's <code>error</code>. Back to <a
href="../docs">the API</a>.</p>
{sections}
</body>
</html>
"""

_ERROR_SECTION = """<section id="{code}">
<h2><code>{code}</code> <span>{status} · {title}</span></h2>
<p>{meaning}</p>
<p><strong>What to do.</strong> {remedy}</p>
</section>"""


@router.head("/docs", include_in_schema=False)
@router.get("/docs")
async def docs_page() -> Response:
    return Response(_DOCS_PAGE, media_type="text/html", headers=_PAGE_HEADERS)


@router.head(ERRORS_PATH, include_in_schema=False)
@router.get(ERRORS_PATH)
async def errors_page() -> Response:
    sections = "\n".join(
        _ERROR_SECTION.format(
            code=problem.code,
            status=problem.status,
            title=escape(problem.title),
            meaning=_prose(problem.meaning),
            remedy=_prose(problem.remedy),
        )
        for problem in PROBLEMS.values()
    )
    return Response(_ERRORS_PAGE.format(sections=sections), media_type="text/html", headers=_PAGE_HEADERS)


@router.head("/docs/static/{name}", include_in_schema=False)
@router.get("/docs/static/{name}")
async def docs_file(name: str) -> Response:
    # The name is a key of a fixed table before it is a path.
    media_type = _MEDIA_TYPES.get(name)
    if media_type is None:
        raise ProblemError("not_found")
    return Response(_content(name), media_type=media_type, headers=_FILE_HEADERS)


@router.head("/openapi.json", include_in_schema=False)
@router.get("/openapi.json")
async def openapi_document(request: Request) -> dict[str, Any]:
    document: dict[str, Any] = request.app.openapi()
    return document


@cache
def _content(name: str) -> bytes:
    # One copy for all readers, however slowly each of them reads.
    return (_STATIC / name).read_bytes()


def _prose(text: str) -> str:
    """Escaped, with `code` marked up."""
    return re.sub("`([^`]*)`", r"<code>\1</code>", escape(text))
