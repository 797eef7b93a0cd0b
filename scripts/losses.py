"""The training objective: one number per batch, and the model that carries it.

Owns the losses and their weights. Refuses to know files and sources. The parts:

- a softmax per head, for photo + title, photo alone and title alone, so that each stands on its own; a label that a row
  does not have counts for nothing; a row with only a coarse label is scored on the summed probability of its paths;
- the sigmoid contrastive loss of SigLIP (Zhai et al. 2023, arXiv:2303.15343) between the photo's and the title's
  embedding, at every listed prefix length (Matryoshka, Kusupati et al. 2022, arXiv:2205.13147); two items of one title
  are no negatives;
- a recogniser of the unfamiliar per branch, trained on made outliers (outlier exposure, Hendrycks et al. 2018,
  arXiv:1812.04606).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from scripts.config import NetworkConfig, TrainingConfig
from scripts.image_augmentation import ImageAugmentation, PhotoMixing, previous_item
from scripts.labels import LabelSpace

# The photo is the hardest to read, and its branch learns less where a title has already told the answer.
PATTERN_WEIGHT = {"fused": 0.6, "image": 1.4, "text": 0.5}
HIERARCHY_WEIGHT, FLAT_WEIGHT, AUXILIARY_WEIGHT = 1.0, 0.7, 0.25
# Of each coarser level of a hierarchy beside the finest: a wrong department is a worse mistake than a wrong article in it.
COARSE_WEIGHT = 0.5
# Where teachers' answers are known, this much of the photo's loss is theirs and the rest the label's.
TAUGHT_SHARE = 0.5
IN_DOMAIN_WEIGHT = 0.2


class Recogniser(keras.Model):  # type: ignore[misc]
    """The network with its augmentation and its loss; `fit` it, then export `network`.

    Inputs are the bundle's four. Targets, all of length B: `labels` int32[B, C] (columns of `LabelSpace.encode`),
    `image_familiar` and `text_familiar` float32[B] (1 a real input, 0 a made outlier), `text_matches` float32[B]
    (0 where another item's title was put in), `title_group` int32[B] (equal for equal titles); where photos were mixed
    before they came here, `own_share` float32[B] (how much of each is its own); where there are teachers, `taught`
    float[B, published width] (their probabilities from the photo alone).

    `teachers` (`scripts.network.photo_reader`) are asked about every photo as it was changed and mixed, and `taught_share` of
    the photo's loss is their answer: a teacher that sees what the pupil sees teaches a function, not a list of answers
    (Beyer et al. 2021, arXiv:2106.05237).
    """

    def __init__(
        self,
        network: keras.Model,
        space: LabelSpace,
        network_config: NetworkConfig,
        training: TrainingConfig,
        *,
        teachers: Sequence[keras.Model] = (),
        taught_share: float = 0.0,
    ) -> None:
        super().__init__(name="recogniser")
        self.network = network
        self.space = space
        self.dimensions = network_config.dimensions
        self.smoothing = training.label_smoothing
        self.contrastive_weight = training.contrastive_weight
        self.has_image = network_config.image_height > 0
        self.has_text = network_config.max_tokens > 0
        self.augment = ImageAugmentation(training.image_augmentation, seed=training.seed)
        self.mix = PhotoMixing(training.mixed_photo_share, seed=training.seed)
        # SigLIP's start: temperature 10, bias -10, so that the many negatives do not swamp the first steps.
        self.log_scale = self.add_weight(shape=(), initializer=keras.initializers.Constant(np.log(10.0)), name="scale")
        self.offset = self.add_weight(shape=(), initializer=keras.initializers.Constant(-8.0), name="offset")
        self.teachers, self.taught_share = list(teachers), taught_share if teachers else 0.0
        for teacher in self.teachers:
            teacher.trainable = False
        self.parts = {name: keras.metrics.Mean(name=name) for name in ("labels", "pairs", "domain")}

    def call(self, inputs: Mapping[str, Any], training: bool = False) -> Any:
        image = ops.cast(inputs["image"], "float32")
        if not (training and self.has_image):
            return self.network({**inputs, "image": image}, training=training)
        image, own_share = self.mix(self.augment(image), inputs["image_present"])
        outputs = {**self.network({**inputs, "image": image}, training=True), "own_share": own_share}
        if self.teachers:
            outputs["taught_now"] = self._teachers_answer(image, inputs["image_present"])
        return outputs

    @property
    def kept_variables(self) -> list[Any]:
        """All variables that a run goes on from; the teachers' do not change."""
        others = {id(variable) for teacher in self.teachers for variable in teacher.variables}
        return [v for v in self.variables if "metric" not in v.path and id(v) not in others]

    def _teachers_answer(self, image: Any, present: Any) -> Any:
        """Mean probabilities of every published head, float32[B, published width]."""
        given = {"image": image, "image_present": present}
        answers = [ops.cast(teacher(given, training=False), "float32") for teacher in self.teachers]
        parts = []
        for head in self.space.heads:
            if not head.auxiliary:
                part = slice(head.offset, head.offset + head.size)
                parts.append(sum(ops.softmax(answer[:, part], axis=-1) for answer in answers) / len(answers))
        return ops.stop_gradient(ops.concatenate(parts, axis=-1))

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        image_given = ops.cast(x["image_present"], "float32") * float(self.has_image)
        text_given = ops.cast(x["text_present"], "float32") * float(self.has_text)
        # How much of each photo is its own item's; the rest is that of the item before it in the batch.
        own_share = y_pred.get("own_share", y.get("own_share", ops.ones_like(image_given)))
        image_good = image_given * y["image_familiar"] * own_share
        text_good = text_given * y["text_familiar"] * y["text_matches"]
        usable = {
            # The photo decides what the item is; the title alone does so only where there is no photo of it.
            "fused": ops.maximum(image_good, text_good),
            "image": image_good,
            "text": text_good,
        }
        taught = {pattern: y.get("taught") if pattern == "image" else None for pattern in PATTERN_WEIGHT}
        weights = PATTERN_WEIGHT | {"image": PATTERN_WEIGHT["image"] * (1.0 - self.taught_share)}
        labels = sum(
            weight * self.label_loss(y_pred[f"{pattern}_logits"], y["labels"], usable[pattern], taught[pattern])
            for pattern, weight in weights.items()
            if pattern == "fused" or (self.has_image if pattern == "image" else self.has_text)
        )
        stranger = previous_item(image_given * y["image_familiar"]) * image_given * (1.0 - own_share)
        if "taught_now" in y_pred:
            share = PATTERN_WEIGHT["image"] * self.taught_share
            labels = labels + share * self._taught_loss(y_pred, y["labels"], image_good, stranger)
        if self.has_image and self.mix.share:
            labels = labels + weights["image"] * self.label_loss(
                y_pred["image_logits"],
                previous_item(y["labels"]),
                stranger,
                previous_item(y["taught"]) if "taught" in y else None,
            )
        pairs, domain = 0.0 * labels, 0.0 * labels
        if self.has_image and self.has_text:
            pairs = self._contrastive_loss(y_pred, image_good * text_good, y["title_group"])
        else:
            # One branch alone has no other side to match: items of one label belong together.
            branch, good = ("image", image_good) if self.has_image else ("text", text_good)
            first = self.space.heads[0]
            pairs = self._same_label_loss(y_pred[f"{branch}_embedding"], good, y["labels"][:, len(first.levels) - 1])
        unmixed = ops.cast(own_share >= 1.0, "float32")
        for branch, given in (("image", image_given * unmixed), ("text", text_given)):
            if self.has_image if branch == "image" else self.has_text:
                each = keras.losses.binary_crossentropy(
                    y[f"{branch}_familiar"][:, None], y_pred[f"{branch}_in_domain"][:, None], from_logits=True
                )
                domain = domain + ops.sum(each * given) / ops.maximum(ops.sum(given), 1.0)
        for name, value in (("labels", labels), ("pairs", pairs), ("domain", domain)):
            self.parts[name].update_state(value)
        return labels + self.contrastive_weight * pairs + IN_DOMAIN_WEIGHT * domain

    def _taught_loss(self, outputs: Mapping[str, Any], labels: Any, own: Any, stranger: Any) -> Any:
        """Of the photo's logits, by the teachers' answers to the same photos. A head counts for a photo by how much of it
        (`own` and `stranger`, float32[B]) belongs to items that have such a label."""
        total, column = 0.0, 0
        for head in self.space.heads:
            if not head.auxiliary:
                part = slice(head.offset, head.offset + head.size)
                scores = ops.log_softmax(outputs["image_logits"][:, part], axis=-1)
                each = -ops.sum(outputs["taught_now"][:, part] * scores, axis=-1)
                known = ops.cast(ops.max(labels[:, column : column + len(head.levels)], axis=1) >= 0, "float32")
                weight = HIERARCHY_WEIGHT if len(head.levels) > 1 else FLAT_WEIGHT
                total = total + weight * ops.mean(each * (known * own + previous_item(known) * stranger))
            column += len(head.levels)
        return total

    def label_loss(self, logits: Any, labels: Any, usable: Any, taught: Any = None, *, smoothing: float | None = None) -> Any:
        """Of logits float[B, L] of one pattern: the softmax of every head, each row weighed by `usable` float32[B]. `smoothing`
        of the labels, where it is not the run's."""
        smoothing = self.smoothing if smoothing is None else smoothing
        total, column = 0.0, 0
        for head in self.space.heads:
            scores = ops.log_softmax(logits[:, head.offset : head.offset + head.size], axis=-1)
            if len(head.levels) == 1:
                each, known = _cross_entropy(scores, labels[:, column], smoothing)
                weight = AUXILIARY_WEIGHT if head.auxiliary else FLAT_WEIGHT
            else:
                each, known = self._path_loss(scores, head, labels, column, smoothing)
                weight = HIERARCHY_WEIGHT
            if taught is not None and not head.auxiliary:
                answers = ops.cast(taught[:, head.offset : head.offset + head.size], scores.dtype)
                each = (1 - TAUGHT_SHARE) * each - TAUGHT_SHARE * ops.sum(answers * scores, axis=-1)
            known = known * usable
            # Divided by the batch, not by the known rows: a rare attribute must not shout.
            total = total + weight * ops.mean(each * known)
            column += len(head.levels)
        return total

    def _path_loss(self, log_probabilities: Any, head: Any, labels: Any, column: int, smoothing: float) -> tuple[Any, Any]:
        finest = len(head.levels) - 1
        target = self._path_index(head, labels[:, column + finest])
        each, known = _cross_entropy(log_probabilities, target, smoothing)
        each = each * known
        probabilities = ops.exp(log_probabilities)
        for level in reversed(range(finest)):
            target = labels[:, column + level]
            members = np.eye(len(head.level_labels(level)), dtype="float32")[head.level_index(level)]
            summed = ops.log(ops.matmul(probabilities, members) + 1e-7)
            coarse, coarse_known = _cross_entropy(summed, target, smoothing)
            # Where nothing finer is known, this level is the finest.
            each = each + coarse_known * coarse * (known * COARSE_WEIGHT + (1 - known))
            known = ops.maximum(known, coarse_known)
        return each, known

    @staticmethod
    def _path_index(head: Any, finest_label: Any) -> Any:
        """Index of the path from the index of its finest label: each finest label is on one path."""
        path_of = np.argsort(head.level_index(len(head.levels) - 1)).astype("int32")
        return ops.where(finest_label >= 0, ops.take(path_of, ops.maximum(finest_label, 0)), -1)

    def _contrastive_loss(self, outputs: Mapping[str, Any], usable: Any, title_group: Any) -> Any:
        rows = ops.shape(usable)[0]
        same = ops.cast(ops.equal(title_group[:, None], title_group[None, :]), "float32")
        eye = ops.eye(rows)
        counted = usable[:, None] * usable[None, :] * ops.maximum(eye, 1.0 - same)
        sign = 2.0 * eye - 1.0
        total = 0.0
        for width in self.dimensions:
            left, right = (_unit(outputs[f"{side}_embedding"][:, :width]) for side in ("image", "text"))
            logits = ops.exp(self.log_scale) * ops.matmul(left, ops.transpose(right)) + self.offset
            total = total + ops.sum(counted * ops.softplus(-sign * logits)) / ops.maximum(ops.sum(usable), 1.0)
        # The fused vector must lie where the photo's and the title's do, or the three could not be searched together.
        fused = _unit(outputs["fused_embedding"])
        for side in ("image", "text"):
            near = ops.sum(fused * _unit(outputs[f"{side}_embedding"]), axis=-1)
            total = total + 0.5 * ops.sum((1.0 - near) * usable) / ops.maximum(ops.sum(usable), 1.0)
        return total / (len(self.dimensions) + 1)

    def _same_label_loss(self, embedding: Any, usable: Any, label: Any) -> Any:
        """The same sigmoid loss within a batch, equal labels being the positives; the two kinds of pairs weigh alike."""
        counted = usable[:, None] * usable[None, :] * (1.0 - ops.eye(ops.shape(usable)[0]))
        counted = counted * ops.cast((label >= 0)[:, None] & (label >= 0)[None, :], "float32")
        same = ops.cast(ops.equal(label[:, None], label[None, :]), "float32")
        total = 0.0
        for width in self.dimensions:
            part = _unit(embedding[:, :width])
            logits = ops.exp(self.log_scale) * ops.matmul(part, ops.transpose(part)) + self.offset
            for chosen, sign in ((counted * same, 1.0), (counted * (1.0 - same), -1.0)):
                total = total + ops.sum(chosen * ops.softplus(-sign * logits)) / ops.maximum(ops.sum(chosen), 1.0)
        return total / len(self.dimensions)


def _unit(vectors: Any) -> Any:
    return vectors / ops.sqrt(ops.sum(ops.square(vectors), axis=-1, keepdims=True) + 1e-9)


def _cross_entropy(log_probabilities: Any, target: Any, smoothing: float) -> tuple[Any, Any]:
    known = ops.cast(target >= 0, "float32")
    hit = ops.take_along_axis(log_probabilities, ops.maximum(target, 0)[:, None], axis=1)[:, 0]
    return -((1 - smoothing) * hit + smoothing * ops.mean(log_probabilities, axis=-1)), known
