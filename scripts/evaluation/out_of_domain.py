"""Is what the bundle was not made for told apart from what it was?

Owns the area under the ROC of the `*_in_domain` outputs, and the share of foreign inputs that abstain.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

from app.engine.images import fit_photo
from app.engine.items import Modality
from scripts.evaluation.evaluation import Evaluation, NotApplicable
from scripts.evaluation.figures import Quality, abstaining_share, answers
from scripts.evaluation.misleading_titles import chinese_titles
from scripts.evaluation.unfamiliar import drawn_photos, gibberish_titles, noise_photos, titles_of_other_trades
from scripts.served_model import Outputs
from scripts.statistics import area_under_roc

ITEMS = 500
DRAWN_ITEMS = 200
_SEED = 7


def plain_foreign(evaluation: Evaluation) -> Iterator[tuple[str, Modality, Outputs]]:
    """(kind, what it is, outputs) of noise photos, handwritten digits where given, and gibberish titles."""
    model = evaluation.model
    size = (model.spec.image_height, model.spec.image_width)
    if model.reads_photos:
        yield "noise photos", "image", evaluation.others("noise photos", photos=noise_photos(ITEMS, *size, _SEED))
        if evaluation.digits is not None and evaluation.catalogue.config.catalogue.kind != "mnist":
            fitted = [fit_photo(Image.fromarray(d), height=size[0], width=size[1]) for d in evaluation.digits[:ITEMS]]
            yield "handwritten digits", "image", evaluation.others("handwritten digits", photos=np.stack(fitted))
    if model.reads_titles:
        yield "gibberish titles", "text", evaluation.others("gibberish titles", titles=gibberish_titles(ITEMS, _SEED))


def drawn_foreign(evaluation: Evaluation) -> Iterator[tuple[str, Modality, Outputs]]:
    """(kind, what it is, outputs) of pictures drawn by code, titles of other trades and Chinese ones."""
    model = evaluation.model
    if model.reads_photos:
        drawn = drawn_photos(DRAWN_ITEMS, model.spec.image_height, model.spec.image_width, _SEED)
        for kind, photos in drawn.items():
            yield kind, "image", evaluation.others(kind, photos=photos)
    if model.reads_titles:
        for kind, titles in (
            ("titles of other trades", titles_of_other_trades(DRAWN_ITEMS, _SEED)),
            ("Chinese titles", chinese_titles(DRAWN_ITEMS, _SEED)),
        ):
            yield kind, "text", evaluation.others(kind, titles=titles)


def foreign_abstaining(evaluation: Evaluation) -> dict[str, float]:
    """Share that abstains of each plain foreign kind."""
    return {kind: _abstaining(evaluation, modality, outputs) for kind, modality, outputs in plain_foreign(evaluation)}


def measure_out_of_domain(evaluation: Evaluation) -> Quality:
    """Per kind: `n`, `auroc` of the in-domain output against the rows' own, and `abstaining` (share); `mean_auroc` and
    `least_auroc` over the kinds of each modality."""
    if not evaluation.patterns:
        raise NotApplicable("no row has a photo or a title")
    kinds: Quality = {}
    for source in (plain_foreign, drawn_foreign):
        for kind, modality, outputs in source(evaluation):
            own = evaluation.outputs[f"{modality}_in_domain"][evaluation.usable(modality)]
            foreign = outputs[f"{modality}_in_domain"]
            if not len(own):
                continue
            kinds[kind] = {
                "of": modality,
                "n": len(foreign),
                "auroc": area_under_roc(own, foreign),
                "abstaining": _abstaining(evaluation, modality, outputs),
            }
    result: Quality = {"kinds": kinds}
    for modality in ("image", "text"):
        values = [entry["auroc"] for entry in kinds.values() if entry["of"] == modality]
        if values:
            result[modality] = {"mean_auroc": float(np.mean(values)), "least_auroc": min(values)}
    return result


def _abstaining(evaluation: Evaluation, modality: Modality, outputs: Outputs) -> float:
    return abstaining_share(answers(evaluation.answerer, outputs, image=modality == "image", text=modality == "text"))
