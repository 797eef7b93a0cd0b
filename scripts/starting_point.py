"""A shipped model as the start of a run on another catalogue: its network, its title pieces, its weights.

Owns what is taken over and what is not: every layer by its name, and in the heads what stands for labels that both catalogues
know. Refuses to know what the run then does with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from app.engine.bundle import Bundle, load_bundle
from app.engine.text import TitleTokenizer
from scripts.config import ConfigError, NetworkConfig
from scripts.config_reading import read_dataclass
from scripts.labels import LabelSpace, matching_columns
from scripts.network import PHOTO_HEADS
from scripts.title_branch import TITLE_HEADS


@dataclass(frozen=True)
class StartingPoint:
    """A bundle to start from."""

    bundle: Bundle
    network: NetworkConfig
    tokenizer: TitleTokenizer | None

    def pour_into(self, network: keras.Model, space: LabelSpace) -> int:
        """Give `network` the bundle's weights. Returns for how many of the labels the heads were taken over; the others,
        like all layers that the bundle lacks, keep their random start."""
        import tensorflow as tf

        loaded = tf.saved_model.load(str(self.bundle.path))  # held: its variables die with it
        # The SavedModel's variables keep their Keras paths as names.
        known = {v.name.removesuffix(":0"): v.numpy() for v in loaded.signatures["serving_default"].variables}
        heads = {
            v.path for layer in network.layers if layer.name in ("heads", PHOTO_HEADS, TITLE_HEADS) for v in layer.variables
        }
        columns = matching_columns(space, self.bundle.labels_json)
        for variable in network.variables:
            value = known.get(variable.path)
            if variable.path in heads and value is not None:
                poured = np.asarray(variable).copy()
                poured[..., : len(columns)][..., columns >= 0] = value[..., columns[columns >= 0]]
                variable.assign(poured)
            elif value is not None and value.shape == tuple(variable.shape):
                variable.assign(value)
        return int((columns >= 0).sum())


def read_starting_point(folder: Path) -> StartingPoint:
    """Verify the bundle in `folder` and read what a run needs of it.

    Raises:
        BundleError: the service would refuse it.
        ConfigError: it does not say what its network is like.
    """
    bundle = load_bundle(folder.resolve())
    recorded = bundle.manifest.training.get("network")
    if recorded is None:
        raise ConfigError(f"{folder}: its manifest does not say what its network is like (training.network); train it anew")
    network = read_dataclass(NetworkConfig, recorded, source=f"{folder}/manifest.json")
    tokenizer = None
    if bundle.tokenizer_json is not None:
        tokenizer = TitleTokenizer.from_json(bundle.tokenizer_json, network.max_tokens)
    return StartingPoint(bundle, network, tokenizer)
