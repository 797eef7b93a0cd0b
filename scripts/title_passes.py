"""Passes over the titles alone, between the epochs with photos.

Owns the second, cheap objective: the text branch trained on title-only items, the fusion and the heads held, the image
branch left out of the computation. Each pass costs about a sixth of an epoch with photos. Without them the words that name
a rare colour or kind are still half learned when the photos are done.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import keras
from numpy.typing import NDArray

from app.engine.text import TitleTokenizer
from scripts.batches import Rows, TitleBatches
from scripts.config import NetworkConfig, TrainingConfig
from scripts.labels import LabelSpace
from scripts.losses import Recogniser
from scripts.network import without_photo_branch

COOLDOWN_SHARE = 0.3
SHARED_LAYERS = ("fusion", "heads", "embedding", "image_domain_hidden", "image_domain")


@keras.saving.register_keras_serializable("itemlens")
class WarmupStableDecay(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """Linear warm-up, a plateau, and a linear fall to nothing over the last `COOLDOWN_SHARE` of the steps (Hägele et al.
    2024, arXiv:2405.18392)."""

    def __init__(self, peak: float, warmup_steps: int, total_steps: int) -> None:
        self.peak, self.warmup_steps, self.total_steps = peak, warmup_steps, total_steps

    def __call__(self, step: Any) -> Any:
        step = keras.ops.cast(step, "float32")
        rising = step / max(1, self.warmup_steps)
        falling = (self.total_steps - step) / max(1.0, COOLDOWN_SHARE * self.total_steps)
        return self.peak * keras.ops.clip(keras.ops.minimum(rising, falling), 0.0, 1.0)

    def get_config(self) -> dict[str, Any]:
        return {"peak": self.peak, "warmup_steps": self.warmup_steps, "total_steps": self.total_steps}


class TitlePasses:
    """`run` before each epoch with photos. Shares the network's variables; has an optimizer of its own, which belongs
    into the checkpoint."""

    def __init__(
        self,
        network: keras.Model,
        space: LabelSpace,
        network_config: NetworkConfig,
        training: TrainingConfig,
        *,
        steps_per_pass: int,
    ) -> None:
        self._passes, self._feature_width = training.title_passes, network_config.fused_width
        titles_only = without_photo_branch(network)
        self._model = Recogniser(
            titles_only,
            space,
            replace(network_config, image_height=0, image_width=0),
            replace(training, contrastive_weight=0.0, image_augmentation="none"),
        )
        # The fusion and the heads belong to both branches: moved by titles alone they forget the photos (article type
        # from the photo fell from 80 to 74 % in four passes).
        self._shared = [layer for layer in titles_only.layers if layer.name in SHARED_LAYERS]
        with self._shared_held():
            self._text_variables = list(titles_only.trainable_variables)
        total = steps_per_pass * training.title_passes * training.epochs
        self.optimizer = keras.optimizers.AdamW(
            WarmupStableDecay(training.learning_rate, int(total * training.warmup_fraction), total),
            weight_decay=training.weight_decay,
            clipnorm=5.0,
        )
        self.optimizer.exclude_from_weight_decay(var_names=["bias", "missing", "scale", "offset"])
        self._model.compile(optimizer=self.optimizer, jit_compile=keras.backend.backend() == "jax")
        with self._shared_held():
            self.optimizer.build(self._model.trainable_variables)

    @property
    def text_variables(self) -> list[Any]:
        """The variables of the network that `run` moves: those of the text branch."""
        return self._text_variables

    @contextmanager
    def _shared_held(self) -> Iterator[None]:
        """Inside the block the fusion and the heads are constants."""
        for layer in self._shared:
            layer.trainable = False
        try:
            yield
        finally:
            for layer in self._shared:
                layer.trainable = True

    def run(
        self,
        rows: Rows,
        train_rows: NDArray[Any],
        *,
        epoch: int,
        tokenizer: TitleTokenizer,
        label_names: list[str],
        batch_size: int,
        seed: int,
    ) -> None:
        """All passes before `epoch`, randomly as `scripts.batches` says."""
        for number in range(self._passes):
            batches = TitleBatches(
                rows,
                train_rows,
                feature_width=self._feature_width,
                tokenizer=tokenizer,
                label_names=label_names,
                batch_size=batch_size,
                seed=seed,
                # Far from the numbers of the epochs with photos, so that no pass repeats one of their shuffles.
                epoch=10_000 + epoch * self._passes + number,
                strokes_are_outliers=False,
            )
            print(f"titles, pass {number + 1} of {self._passes}", flush=True)
            with self._shared_held():
                self._model.fit(batches, epochs=1, shuffle=False, verbose="auto")
