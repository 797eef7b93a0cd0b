"""A running service, asked for labels: batches out, one result per item back, patiently.

Owns HTTP: the key, retries, and splitting what the service finds too large. Refuses to know catalogues. Results come in
order, one per item; the caller never sees a status.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import httpx

_FIRST_RETRY_S = 0.5
_LAST_RETRY_S = 10.0
_FAULTS_BEFORE_SPLITTING = 2
"""One item may be what a batch fails of: after so many faults it is halved."""
_REQUEST_TIMEOUT_S = 130.0
"""A little more than the longest deadline that the service allows."""

Result = dict[str, Any]


class ServiceError(Exception):
    """The run cannot go on; the message is for the person at the keyboard."""


class LabelService:
    """Safe to call from many threads.

    `patience_s`: how long one batch may be refused (no connection, overload, a failing service) before the run gives up.
    """

    def __init__(self, url: str, *, api_key: str | None, patience_s: float) -> None:
        headers = {"X-API-Key": api_key} if api_key else {}
        self._url = url
        self._patience_s = patience_s
        self._is_stopping = threading.Event()
        try:
            self._http = httpx.Client(base_url=url, headers=headers, timeout=_REQUEST_TIMEOUT_S)
        except (httpx.InvalidURL, ValueError) as error:
            raise ServiceError(f"{url} is not an address: {error}.") from None

    def close(self) -> None:
        self._http.close()

    def stop(self) -> None:
        """Let every thread that waits to try again give up now."""
        self._is_stopping.set()

    def describe(self, model: str | None) -> dict[str, Any]:
        """What the service says of a model, or of its default one. Raises ServiceError."""
        document = self._send("GET", "/v1/models" if model is None else f"/v1/models/{model}").json()
        if model is not None:
            return dict(document)
        return dict(next(found for found in document["models"] if found["is_default"]))

    def classify(self, items: Sequence[Result], options: dict[str, Any]) -> list[Result]:
        """One result per item as `POST /v1/classify` gives them; a failed one has `status` "error". Raises ServiceError."""
        response = self._send("POST", "/v1/classify", {"items": list(items)} | options)
        if response.is_success:
            return list(response.json()["results"])
        problem = _problem(response)
        if len(items) == 1:  # a request of one item answers with that item's own status
            return [{"status": "error", "error": problem}]
        # Too many bytes, too many items, or not done within the deadline: each half stands a better chance.
        half = len(items) // 2
        return self.classify(items[:half], options) + self.classify(items[half:], options)

    def _send(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """The answer, once there is one that trying again would not better. Raises ServiceError."""
        give_up_at = time.monotonic() + self._patience_s
        retry_s = _FIRST_RETRY_S
        faults = 0
        while True:
            try:
                response = self._http.request(method, path, json=body)
            except httpx.HTTPError as error:
                refusal, wait_s = f"{type(error).__name__}: {error}", retry_s
            else:
                if response.is_success:
                    return response
                problem = _problem(response)
                refusal = f"{response.status_code} {problem['code']}: {problem['detail']}"
                faults += response.status_code == 500
                if body is not None and (problem["code"] in _ABOUT_ITEMS or faults > _FAULTS_BEFORE_SPLITTING):
                    return response
                if response.status_code not in (429, 500, 502, 503):
                    raise ServiceError(f"{self._url} refuses the request: {refusal}")
                wait_s = _retry_after_s(response, retry_s)
            if time.monotonic() + wait_s > give_up_at or self._is_stopping.wait(wait_s):
                raise ServiceError(f"{self._url} does not answer: {refusal}")
            retry_s = min(2 * retry_s, _LAST_RETRY_S)


_ABOUT_ITEMS = frozenset(
    {
        "body_too_large",
        "too_many_items",
        "deadline_exceeded",
        "image_too_large",
        "unsupported_image_type",
        "invalid_item",
        "empty_item",
        "input_not_supported",
        "undecodable_image",
        "text_too_long",
    }
)
"""Codes after which fewer or other items might be answered; any other refusal is of the run as a whole."""


def _problem(response: httpx.Response) -> dict[str, Any]:
    """The problem document of a refusal; a proxy in between may answer with a page of its own."""
    try:
        document = response.json()
        return {"code": str(document["code"]), "detail": str(document["detail"])}
    except (ValueError, KeyError, TypeError):
        return {"code": f"http_{response.status_code}", "detail": response.reason_phrase}


def _retry_after_s(response: httpx.Response, default_s: float) -> float:
    try:
        return max(float(response.headers["Retry-After"]), 0.1)
    except (KeyError, ValueError):
        return default_s
