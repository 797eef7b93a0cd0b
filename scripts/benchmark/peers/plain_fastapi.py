"""FastAPI with TensorFlow, called the obvious way: the app that one writes after an hour with both tutorials.

A synchronous route, a pydantic model as body, base64 from the standard library, a full decode by Pillow, and the loaded
SavedModel's signature called per request. Nothing of this project is used.

    BENCHMARK_BUNDLE=models/fashion/2 uvicorn scripts.benchmark.peers.plain_fastapi:app
"""

from __future__ import annotations

import base64
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from fastapi import FastAPI
from PIL import Image
from pydantic import BaseModel
from tokenizers import Tokenizer

FOLDER = Path(os.environ["BENCHMARK_BUNDLE"])
INPUTS = json.loads((FOLDER / "manifest.json").read_text())["inputs"]
HEADS = json.loads((FOLDER / "labels.json").read_text())["heads"]
tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
model = tf.saved_model.load(str(FOLDER))
predict = model.signatures["serving_default"]
app = FastAPI()


class Product(BaseModel):
    """A photo in base64 and a title."""

    image: str
    text: str


@app.get("/health")
def health() -> dict[str, str]:
    """Answers once the model is loaded."""
    return {"status": "ok"}


@app.post("/classify")
def classify(product: Product) -> dict[str, Any]:
    """The five likeliest labels of every head."""
    photo = Image.open(io.BytesIO(base64.b64decode(product.image))).convert("RGB")
    pixels = np.asarray(photo.resize((INPUTS["image"]["width"], INPUTS["image"]["height"]), Image.Resampling.BICUBIC))
    ids = tokenizer.encode(product.text.lower()).ids[: INPUTS["text"]["max_tokens"]]
    tokens = np.zeros(INPUTS["text"]["max_tokens"], np.int32)
    tokens[: len(ids)] = ids
    outputs = predict(
        image=tf.constant(pixels[None]),
        token_ids=tf.constant(tokens[None]),
        image_present=tf.constant([True]),
        text_present=tf.constant([True]),
    )
    logits = outputs["fused_logits"].numpy()[0]
    attributes = {}
    for head in HEADS:
        scores = tf.nn.softmax(logits[head["offset"] : head["offset"] + head["size"]]).numpy()
        if head["kind"] == "hierarchy":
            name, labels = head["levels"][-1], [path[-1] for path in head["paths"]]
        else:
            name, labels = head["attribute"], head["labels"]
        best = np.argsort(-scores)[:5]
        attributes[name] = {
            "label": labels[best[0]],
            "candidates": [{"label": labels[i], "confidence": float(scores[i])} for i in best],
        }
    return {"attributes": attributes}
