"""The optimiser of the epochs and its schedule.

Owns how the learning rate goes and the average of the weights. Refuses to know what is trained.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np


@keras.saving.register_keras_serializable("itemlens")
class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """Linear warm-up, then half a cosine down to nothing (Loshchilov and Hutter 2016, arXiv:1608.03983).

    Its numbers are a variable: a step that is compiled once serves runs of any length, on JAX by way of the compilation cache.
    """

    def __init__(self, peak: float, warmup_steps: int, total_steps: int) -> None:
        self.peak, self.warmup_steps, self.total_steps = peak, warmup_steps, total_steps
        numbers = np.array([peak, warmup_steps, total_steps], np.float32)
        self.numbers = keras.Variable(numbers, trainable=False, name="schedule")

    def __call__(self, step: Any) -> Any:
        peak, warmup, total = keras.ops.unstack(keras.ops.convert_to_tensor(self.numbers), 3)
        step = keras.ops.cast(step, "float32")
        rising = step / keras.ops.maximum(warmup, 1.0)
        done = (step - warmup) / keras.ops.maximum(total - warmup, 1.0)
        falling = 0.5 * (1.0 + keras.ops.cos(math.pi * keras.ops.clip(done, 0.0, 1.0)))
        return peak * keras.ops.where(step < warmup, rising, falling)

    def get_config(self) -> dict[str, Any]:
        return {"peak": self.peak, "warmup_steps": self.warmup_steps, "total_steps": self.total_steps}


class AveragingAdamW(keras.optimizers.AdamW):  # type: ignore[misc]
    """AdamW that keeps an average of the weights beside them (Polyak and Juditsky 1992).

    Keras would overwrite the weights with the average whenever `fit` returns; here that is asked for by name, because
    `fit` returns after every epoch.
    """

    def __init__(self, schedule: WarmupCosine, **options: Any) -> None:
        super().__init__(schedule, use_ema=True, **options)
        self._track_variable(schedule.numbers)

    def restart(self, schedule: WarmupCosine) -> None:
        """Begin anew, with the numbers of `schedule` for its own. A step that was compiled with it stays as it is."""
        own = self._learning_rate
        for variable in self.variables:  # the average begins with the weights after the first step
            variable.assign(keras.ops.zeros(variable.shape, variable.dtype))
        own.peak, own.warmup_steps, own.total_steps = schedule.peak, schedule.warmup_steps, schedule.total_steps
        own.numbers.assign(schedule.numbers)

    def finalize_variable_values(self, var_list: Sequence[Any]) -> None:
        pass

    @contextmanager
    def averaged(self, variables: Sequence[Any]) -> Iterator[None]:
        """The averages stand in for the weights inside the block."""
        kept = [np.asarray(v) for v in variables]
        self.use_averages(variables)
        try:
            yield
        finally:
            for variable, value in zip(variables, kept, strict=True):
                variable.assign(value)

    def use_averages(self, variables: Sequence[Any]) -> None:
        for variable, average in zip(variables, self._model_variables_moving_average, strict=True):
            variable.assign(np.asarray(average))  # by way of the host: JAX gives a buffer away with its variable
