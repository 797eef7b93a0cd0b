"""Passes over titles alone teach the words and leave the photo branch as it is."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest

from app.engine.text import TitleTokenizer
from scripts.batches import Rows, group_titles
from scripts.config import NetworkConfig, TrainingConfig
from scripts.labels import build_label_space
from scripts.network import build_network
from scripts.title_passes import TitlePasses, WarmupStableDecay

COLOURS = ("red", "green", "blue", "yellow")


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_titles_are_learned_without_touching_the_photo_branch() -> None:
    titles = [f"{COLOURS[i % 4]} shirt number {i}" for i in range(160)]
    labels = {"colour": [COLOURS[i % 4] for i in range(160)]}
    every = np.arange(160)
    space = build_label_space(labels, every, label_columns=["colour"])
    rows = Rows(
        photos=np.zeros((160, 16, 16, 3), np.uint8),
        photo_present=np.ones(160, bool),
        extra_photos=np.zeros((0, 16, 16, 3), np.uint8),
        extra_of_row={},
        titles=titles,
        labels=space.encode(labels, 160),
        title_group=group_titles(titles),
    )
    config = NetworkConfig(
        image_height=16, image_width=16, widths=(8,), depths=(1,), max_tokens=6, vocabulary_size=300, token_width=16,
        recurrent_width=16, fused_width=16, embedding_width=8, dimensions=(8,), dropout=0.0,
    )  # fmt: skip
    training = TrainingConfig(epochs=1, batch_size=32, title_passes=30, learning_rate=1e-2)
    tokenizer = TitleTokenizer.train(titles, vocabulary_size=300, max_tokens=6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        keras.utils.set_random_seed(1)
        network = build_network(config, vocabulary_size=tokenizer.vocabulary_size, logits_width=space.logits_width)
        passes = TitlePasses(network, space, config, training, steps_per_pass=5)
    of_photos = [v for v in network.variables if "stem" in v.path or "stage" in v.path or "image_dense" in v.path]
    of_photos += [v for v in network.variables if v.path.startswith(("fusion", "heads"))]
    before = [np.asarray(v).copy() for v in of_photos]
    passes.run(rows, every, epoch=0, tokenizer=tokenizer, label_names=list(COLOURS), batch_size=32, seed=1)
    assert before
    assert all(np.array_equal(old, np.asarray(new)) for old, new in zip(before, of_photos, strict=True))
    outputs = network.predict(
        {
            "image": rows.photos.astype("float32"),
            "token_ids": tokenizer.encode_many(titles),
            "image_present": np.zeros(160, bool),
            "text_present": np.ones(160, bool),
        },
        verbose=0,
    )
    guess = outputs["text_logits"].argmax(axis=1)
    assert (guess == rows.labels[:, 0]).mean() > 0.9


def test_the_learning_rate_rises_stays_and_falls_to_nothing() -> None:
    rate = WarmupStableDecay(peak=1.0, warmup_steps=10, total_steps=100)
    values = [float(rate(step)) for step in (0, 5, 10, 69, 85, 100)]
    assert values == pytest.approx([0.0, 0.5, 1.0, 1.0, 0.5, 0.0])
