"""Itemlens from Python."""

import base64
import os
import time
from pathlib import Path

import httpx

SAMPLES = Path(__file__).resolve().parent.parent / "samples"


class ItemlensError(Exception):
    """The service refused. Branch on `code`, which is stable; give `request_id` to its operator."""

    def __init__(self, response: httpx.Response) -> None:
        # A proxy in between may answer with a page of its own.
        is_problem = response.headers.get("content-type", "").startswith("application/problem+json")
        problem = response.json() if is_problem else {}
        self.status = response.status_code
        self.code = problem.get("code", "unknown")
        self.request_id = problem.get("request_id")
        self.errors = problem.get("errors", [])  # [{"pointer": "/items/0/image", "detail": …}]
        super().__init__(f"{self.status} {self.code}: {problem.get('detail', response.reason_phrase)}")


class Itemlens:
    """One per process: it keeps its connections open. Safe to share between threads."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        headers = {"X-API-Key": api_key} if api_key else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=30)

    def post(self, path: str, body: dict, attempts: int = 4) -> dict:
        """POST JSON. While the service is overloaded, wait as long as it asks and try again. Raises ItemlensError."""
        for attempts_left in reversed(range(attempts)):
            response = self._http.post(path, json=body)
            if response.status_code not in (429, 503) or not attempts_left:
                break
            time.sleep(float(response.headers.get("Retry-After", 1)))
        if response.is_error:
            raise ItemlensError(response)
        return response.json()


def item(name: str, photo: str | None = None, title: str | None = None) -> dict:
    """An item of a request; `photo` is a file in the samples' folder."""
    fields = {"id": name}
    if photo:
        fields["image"] = base64.b64encode((SAMPLES / photo).read_bytes()).decode()
    if title:
        fields["text"] = title
    return fields


def main() -> None:
    client = Itemlens(os.environ.get("ITEMLENS_URL", "http://127.0.0.1:8000"), os.environ.get("ITEMLENS_API_KEY"))

    # Let sure answers through, put the others before a person, and look at each item's own status.
    items = [
        item("sku-1", "grey-tshirt.jpg", "Puma Men Grey T-shirt"),
        item("sku-2", "black-shoe.jpg"),
        item("sku-3"),  # neither photo nor title: fails alone
    ]
    answer = client.post("/v1/classify", {"items": items, "attributes": ["articleType", "baseColour"], "top_k": 1})
    for result in answer["results"]:
        if result["status"] == "error":
            print(result["id"], "failed:", result["error"]["code"])
            continue
        for attribute, given in result["attributes"].items():
            print(result["id"], attribute, given["label"], given["confidence"], given["decision"])

    # Photo and title vectors lie in one space; the scalar product of two unit vectors is their likeness.
    vectors = client.post("/v1/embed", {"items": [item("a", "black-shoe.jpg"), item("b", title="black sports shoes")]})
    left, right = (result["embedding"] for result in vectors["results"])
    print("space", vectors["space_id"], "likeness", round(sum(a * b for a, b in zip(left, right, strict=True)), 3))

    try:
        client.post("/v1/classify", {"items": [{}]})
    except ItemlensError as refusal:
        print("refused:", refusal)


if __name__ == "__main__":
    main()
