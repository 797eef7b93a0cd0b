"""A run that starts from a bundle has its network, its title pieces and what it knows of the labels."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.engine.text import TitleTokenizer
from scripts.config import ConfigError
from scripts.export import seal
from scripts.labels import LabelSpace, build_label_space
from scripts.network import build_network
from scripts.served_model import ServedModel
from scripts.starting_point import read_starting_point
from tests.scripts.conftest import MadeRun, run_training, steps_untraced

pytestmark = pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly`:UserWarning")


def space_of(colours: list[str], tones: list[str]) -> LabelSpace:
    table = {"tone": tones, "colour": colours, "material": ["wool", "steel", "glass", "oak"][: len(tones)]}
    return build_label_space(
        table, range(len(tones)), label_columns=("tone", "colour", "material"), hierarchy=("tone", "colour")
    )


@pytest.mark.parametrize("heads_width", [0, 8])
def test_known_labels_are_answered_as_before_and_new_ones_are_not_known(trained: MadeRun, heads_width: int) -> None:
    """Whether or not the network is given heads that the bundle's has not."""
    start = read_starting_point(trained.bundle)
    space = space_of(["purple", "green", "blue", "red"], ["cold", "cold", "cold", "warm"])
    assert isinstance(start.tokenizer, TitleTokenizer)
    with steps_untraced():
        config = replace(start.network, photo_heads_width=heads_width, title_heads_width=heads_width)
        network = build_network(config, vocabulary_size=start.tokenizer.vocabulary_size, logits_width=space.logits_width)
        assert start.pour_into(network, space) == 6, "green, blue, red; wool, steel, glass"
        photos = np.random.default_rng(1).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
        titles = ["merino bowl", "inox cup", "crystal lamp", "", "merino plate"]
        ours = network.predict_on_batch(
            {
                "image": photos.astype(np.float32),
                "token_ids": start.tokenizer.encode_many(titles),
                "image_present": np.ones(5, bool),
                "text_present": np.array([bool(title) for title in titles]),
            }
        )
    theirs = ServedModel(trained.bundle, runtime="tensorflow").run(photos, titles)
    assert np.allclose(ours["fused_embedding"], theirs["fused_embedding"], atol=1e-5)
    heads = start.bundle.labels_json["heads"]
    for mine, head in zip(space.heads, heads, strict=True):
        paths = [tuple(path) for path in head.get("paths") or [[label] for label in head["labels"]]]
        for number, path in enumerate(mine.paths):
            if path in paths:
                for name in ("image_logits", "text_logits", "fused_logits"):
                    before = theirs[name][:, head["offset"] + paths.index(path)]
                    assert np.allclose(ours[name][:, mine.offset + number], before, atol=1e-4), (name, path)


@pytest.mark.slow
def test_a_short_run_from_a_bundle_beats_one_from_nothing(trained: MadeRun, shop: Path, tmp_path: Path) -> None:
    def accuracy(name: str, *flags: str) -> float:
        run = run_training(shop, tmp_path / name, epochs=1, flags=flags)
        assert run.status == 0
        figures = json.loads((run.run_dir / "metrics.json").read_text())["patterns"]["both"]
        return float(figures["colour"]["accuracy"] + figures["material"]["accuracy"]) / 2

    started = accuracy("started", "--from", str(trained.bundle))
    assert started > 0.9
    assert started > accuracy("nothing") + 0.2


@pytest.mark.slow
def test_no_epochs_from_a_bundle_finish_it_once_more(trained: MadeRun, shop: Path, tmp_path: Path) -> None:
    network = "photo_heads_width = 8"
    run = run_training(shop, tmp_path, epochs=1, network=network, flags=("--from", str(trained.bundle), "--epochs", "0"))
    assert run.status == 0
    assert read_starting_point(run.bundle).network == replace(read_starting_point(trained.bundle).network, photo_heads_width=8)
    assert json.loads((run.run_dir / "metrics.json").read_text())["patterns"]["both"]["colour"]["accuracy"] > 0.9
    before, after = (read_starting_point(bundle).bundle.manifest.training for bundle in (trained.bundle, run.bundle))
    assert (before["epochs"] > 0, after["epochs"], after["seconds"] > 0) == (True, 0, True)


def test_a_bundle_that_does_not_say_what_its_network_is_like_is_refused(trained: MadeRun, tmp_path: Path) -> None:
    folder = tmp_path / "shop" / "1"
    shutil.copytree(trained.bundle, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["training"]["network"]
    seal(folder, manifest)
    with pytest.raises(ConfigError, match="train it anew"):
        read_starting_point(folder)
