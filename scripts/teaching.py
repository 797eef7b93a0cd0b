"""What the photos' teachers answer, kept as targets: a second round of training learns from them beside the labels.

Owns asking the teachers (the run's own network after its first round, and any bundles) and joining their answers. Labels of
products contradict each other (a third of one brand's flat sandals are filed under heels); a teacher's probabilities say so,
where a label names one and denies the other. Refuses to know the loss.

Sources: distillation, Hinton et al. 2015, arXiv:1503.02531; a network as its own next teacher, Furlanello et al. 2018,
arXiv:1805.04770.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from scripts.labels import LabelSpace, matching_columns
from scripts.network import blank_titles
from scripts.served_model import ServedModel

Floats = NDArray[np.float32]


def taught_answers(
    network: keras.Model,
    photos: NDArray[np.uint8],
    rows: NDArray[np.int64],
    *,
    space: LabelSpace,
    teachers: Sequence[ServedModel] = (),
    batch_size: int = 256,
) -> NDArray[np.float16]:
    """float16[N, `space.published_width`]: for `rows` of the N photos the mean probabilities of every head from the photo
    alone, over `network`, all `teachers`, and each photo as it is and mirrored. Zero in all other rows.

    A label that a teacher does not know gets nothing from it; a head that it lacks is left to the others.
    """
    columns = [matching_columns(space, teacher.bundle.labels_json) for teacher in teachers]
    taught = np.zeros((len(photos), space.published_width), np.float16)
    for start in tqdm(range(0, len(rows), batch_size), desc="asking the teachers", unit="batch"):
        chosen = rows[start : start + batch_size]
        total = np.zeros((len(chosen), space.published_width), np.float32)
        for batch in (photos[chosen], np.ascontiguousarray(photos[chosen][:, :, ::-1])):
            total += probabilities(_own_logits(network, batch)[:, : space.published_width], space)
            for teacher, known in zip(teachers, columns, strict=True):
                logits = np.full(total.shape, -np.inf, np.float32)
                logits[:, known >= 0] = teacher.run(batch, None)["image_logits"][:, known[known >= 0]]
                total += probabilities(logits, space)
        for head in _published(space):
            part = slice(head.offset, head.offset + head.size)
            taught[chosen, part] = total[:, part] / total[:, part].sum(axis=1, keepdims=True)
    return taught


def probabilities(logits: Floats, space: LabelSpace) -> Floats:
    """A softmax per published head, float32[B, published_width]; a head whose logits are all -inf gets zeros."""
    result = np.zeros_like(logits)
    for head in _published(space):
        part = logits[:, head.offset : head.offset + head.size]
        if np.isfinite(part).any():
            raised = np.exp(part - part.max(axis=1, keepdims=True))
            result[:, head.offset : head.offset + head.size] = raised / raised.sum(axis=1, keepdims=True)
    return result


def _own_logits(network: keras.Model, photos: NDArray[np.uint8]) -> Floats:
    given = blank_titles(network, len(photos)) | {"image": photos.astype(np.float32)}
    return np.asarray(network.predict_on_batch(given)["image_logits"], np.float32)


def _published(space: LabelSpace) -> list[Any]:
    return [head for head in space.heads if not head.auxiliary]
