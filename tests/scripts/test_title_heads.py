"""The title's own heads learn from titles alone, and are heard as much as validation finds likely; nothing else moves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

import scripts.title_heads
from scripts.losses import Recogniser
from scripts.network import build_network
from scripts.title_branch import TITLE_HEADS
from scripts.title_heads import MOST_ADDED, _shares_on, likeliest_share, read_titles_alone
from tests.scripts.conftest import steps_untraced
from tests.scripts.test_finishing import COUNT, NETWORK, TRAINING, catalogue
from tests.scripts.test_photo_heads import outputs_of

pytestmark = pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly`:UserWarning")

CONFIG = replace(NETWORK, title_heads_width=8)
NOBODY = np.empty(0, np.int64)


def test_a_title_is_answered_better_and_all_else_stays_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripts.title_heads, "PASSES", 2)
    monkeypatch.setattr(scripts.title_heads, "LEARNING_RATE", 0.1)
    rows, space, tokenizer = catalogue()
    keras.utils.set_random_seed(1)
    network = build_network(CONFIG, vocabulary_size=tokenizer.vocabulary_size, logits_width=space.logits_width)
    model = Recogniser(network, space, CONFIG, TRAINING)
    held = {v.path: np.asarray(v).copy() for v in network.variables if TITLE_HEADS not in v.path and "seed" not in v.path}
    trainable = [variable.path for variable in model.trainable_variables]
    tokens = tokenizer.encode_many(rows.titles)
    before = outputs_of(network, rows.photos, tokens)
    with steps_untraced():
        read_titles_alone(model, rows, np.arange(COUNT), NOBODY, tokenizer=tokenizer, training=TRAINING)
    after = outputs_of(network, rows.photos, tokens)
    silent = outputs_of(network, rows.photos, np.zeros_like(tokens))
    assert np.allclose(silent["fused_logits"], before["image_logits"], atol=1e-5), "where there is no title they say nothing"

    def likelihood(logits: NDArray[np.float32]) -> float:
        spread = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        return float(np.take_along_axis(spread, rows.labels[:, :1], 1).mean())

    for name in ("text_logits", "fused_logits"):
        assert likelihood(after[name]) > likelihood(before[name]) + 0.05
        before.pop(name)
    assert all(np.array_equal(value, np.asarray(v)) for v in network.variables if (value := held.get(v.path)) is not None)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert [variable.path for variable in model.trainable_variables] == trainable, "the next stage would train them too"
    assert not any(TITLE_HEADS in path for path in trainable)


def test_the_share_is_the_likeliest_on_validation_and_the_usual_one_without(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, space, tokenizer = catalogue()
    network = build_network(CONFIG, vocabulary_size=tokenizer.vocabulary_size, logits_width=space.logits_width)
    model = Recogniser(network, space, CONFIG, TRAINING)
    labels = rows.labels[:, 0].astype(np.int64)
    heads = _Knowing(tokenizer.encode_many(["ab"])[0], int(labels[rows.titles.index("ab")]))
    monkeypatch.setattr(scripts.title_heads, "_LEAST_ROWS", 8)
    assert set(_shares_on(model, heads, rows, NOBODY, tokenizer)) == {np.float32(MOST_ADDED["flat"])}
    assert set(_shares_on(model, heads, rows, np.arange(COUNT), tokenizer)) == {np.float32(MOST_ADDED["flat"])}
    monkeypatch.setattr(scripts.title_heads, "_truths", lambda *_: [(space.heads[0], 1 - labels)])
    assert set(_shares_on(model, heads, rows, np.arange(COUNT), tokenizer)) == {np.float32(0.0)}
    assert "kind 0.35" in capsys.readouterr().out
    monkeypatch.setattr(scripts.title_heads, "_LEAST_ROWS", COUNT + 1)
    assert set(_shares_on(model, heads, rows, np.arange(COUNT), tokenizer)) == {np.float32(MOST_ADDED["flat"])}


class _Knowing:
    """Heads that know which kind one title stands for, of two."""

    def __init__(self, tokens: NDArray[np.int32], kind: int) -> None:
        self._tokens, self._kind = tokens, kind

    def predict(self, tokens: NDArray[np.int32], verbose: int) -> NDArray[np.float32]:
        is_it = (tokens == self._tokens).all(axis=1)
        kinds = np.where(is_it, self._kind, 1 - self._kind)
        return 4 * np.eye(2, dtype=np.float32)[kinds]


def test_the_likeliest_share_does_not_depend_on_how_sure_the_answers_are() -> None:
    random = np.random.default_rng(5)
    truth = random.integers(0, 3, 4000)
    shown = np.eye(3, dtype=np.float32)[truth]
    known, own = (shown + random.normal(0, 1.0, (4000, 3)).astype(np.float32) for _ in range(2))
    # Two witnesses as good as each other deserve to be heard alike: half as much of one that speaks twice as loud.
    assert likeliest_share(known, 2 * own, truth, most=0.5) == pytest.approx(0.5, abs=0.051)
    assert likeliest_share(known, 4 * own, truth, most=0.5) == pytest.approx(0.25, abs=0.051)
    assert likeliest_share(3 * known, 12 * own, truth, most=0.5) == pytest.approx(0.25, abs=0.051)
    assert likeliest_share(known, random.normal(0, 1, (4000, 3)).astype(np.float32), truth, most=0.7) == pytest.approx(
        0, abs=0.051
    )


def test_padding_and_where_in_the_title_a_word_stands_do_not_count() -> None:
    rows, space, _ = catalogue()
    config = replace(CONFIG, max_tokens=6)
    network = build_network(config, vocabulary_size=20, logits_width=space.logits_width)
    random = np.random.default_rng(2)
    for variable in network.variables:
        if TITLE_HEADS in variable.path and "seed" not in variable.path:
            variable.assign(random.normal(0, 1, variable.shape))
    heads = keras.Model(network.inputs, network.get_layer(TITLE_HEADS).output)
    tokens = np.array([[7, 9, 0, 0, 0, 0], [0, 0, 0, 7, 9, 0], [9, 7, 0, 0, 0, 0], [0] * 6], np.int32)
    x: dict[str, Any] = {
        "image": rows.photos[:4].astype(np.float32), "token_ids": tokens,
        "image_present": np.ones(4, bool), "text_present": np.ones(4, bool),
    }  # fmt: skip
    found = np.asarray(heads(x))
    assert np.allclose(found[0], found[1], atol=1e-5)
    assert not np.allclose(found[0], found[2], atol=1e-3), "pairs are read in their order"
    assert np.allclose(found[3], np.asarray(network.get_layer(TITLE_HEADS).bias), atol=1e-5)


def test_a_network_without_such_heads_is_left_as_it_is() -> None:
    rows, space, tokenizer = catalogue()
    network = build_network(NETWORK, vocabulary_size=tokenizer.vocabulary_size, logits_width=space.logits_width)
    model = Recogniser(network, space, NETWORK, TRAINING)
    before = outputs_of(network, rows.photos)
    read_titles_alone(model, rows, np.arange(COUNT), NOBODY, tokenizer=tokenizer, training=TRAINING)
    after = outputs_of(network, rows.photos)
    assert all(np.array_equal(before[name], after[name]) for name in before)
