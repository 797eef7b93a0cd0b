"""P3: what is left when no word of the title names a label.

Owns which words name a label (the labels' own, their plurals, and what shops call them besides) and how they are hidden.
The names besides are English; a catalogue in another language loses its labels' own words alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from app.engine.text import clean_title
from scripts.evaluation.evaluation import Evaluation
from scripts.evaluation.figures import Quality, attribute_quality, changed_quality
from scripts.title_augmentation import class_stems, stem

# Where one word of a line names a label, all of them do.
OTHER_NAMES = (
    "tshirt tee tees teeshirt jersey",
    "shirt kameez",
    "women woman womens ladies lady ladys female",
    "men man mens gents gent gentleman gentlemen male",
    "boy boys lad",
    "girl girls lass",
    "kid kids child children kidswear junior infant toddler",
    "grey gray charcoal slate ash",
    "navy",
    "multi multicolour multicolor multicoloured multicolored assorted",
    "gold golden goldtoned",
    "silver silvertoned silvery",
    "copper coppery",
    "cream creamcoloured ivory offwhite",
    "brown chocolate coffee tan camel",
    "purple violet plum",
    "red crimson scarlet maroon burgundy wine",
    "pink rose coral peach",
    "turquoise teal aqua cyan",
    "skin nude",
    "trouser trousers pant pants chino chinos slacks",
    "jean jeans denim denims",
    "short shorts bermuda bermudas",
    "sweater pullover jumper cardigan",
    "sweatshirt hoodie hoody",
    "jacket jackets windcheater windbreaker",
    "shoe shoes footwear sneaker sneakers trainer trainers loafer loafers moccasin moccasins boot boots",
    "heel heels wedge wedges pump pumps stiletto stilettos",
    "flat flats ballerina ballerinas jhuti jutti juti",
    "sandal sandals floater floaters",
    "flop slipper slippers thong thongs",
    "bag handbag handbags purse purses tote totes sling",
    "backpack rucksack",
    "duffel duffle",
    "clutch purse",
    "wallet wallets billfold",
    "watch wristwatch chronograph timepiece",
    "sunglass sunglasses eyewear goggle goggles shades",
    "cap caps hat hats beanie",
    "sock socks",
    "scarf scarves scarfs",
    "tie ties necktie",
    "belt belts",
    "ring rings",
    "earring earrings stud studs",
    "jewellery jewelry",
    "bangle bangles kada",
    "necklace necklaces",
    "deodorant deo deos antiperspirant",
    "perfume perfumes fragrance cologne edt edp",
    "nail lacquer enamel",
    "lipstick lipsticks lipcolor lipcolour",
    "blush blusher",
    "eyeshadow shadow",
    "moisturiser moisturizer moisturising moisturizing",
    "saree sarees sari saris",
    "kurta kurtas kurti kurtis",
    "brief briefs panty panties bikini underwear",
    "innerwear underwear lingerie",
    "vest vests singlet",
    "nightdress nightie nighty nightgown",
    "dress dresses frock gown",
    "top tops topwear blouse camisole",
    "striped stripe stripes stripey",
    "checked check checks chequered checkered plaid",
    "printed print prints",
    "gift combo",
    "sport sports sporty",
)
_PARTS = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")


def label_word_stems(labels: Iterable[str]) -> frozenset[str]:
    """Stems of every word that names one of the labels, the other names included."""
    own = class_stems(labels)
    found = set(own)
    for line in OTHER_NAMES:
        stems = {stem(word) for word in line.split()}
        if stems & own:
            found |= stems
    return frozenset(found)


def hide_class_words(title: str, stems: frozenset[str]) -> str:
    """The title (cleaned) without the words whose stem is among `stems`: alone ("tees"), as a part of a compound
    ("navy-blue", "black/red"), or written as two ("t shirt")."""
    words = clean_title(title).split(" ")
    kept: list[str] = []
    place = 0
    while place < len(words):
        if place + 1 < len(words) and stem(words[place] + words[place + 1]) in stems:
            place += 2
            continue
        word = words[place]
        place += 1
        if stem(word) in stems:
            continue
        parts = _PARTS.findall(word)
        left = [part for part in parts if stem(part) not in stems]
        if left:
            kept.append(word if len(left) == len(parts) else " ".join(left))
    return " ".join(kept)


def measure_hidden_class_words(evaluation: Evaluation) -> Quality:
    """Figures from photo and title, `hidden_words` (share of the titles' words) and `examples` of titles."""
    both = evaluation.need("both")
    titles = hidden_titles(evaluation)
    outputs = evaluation.changed("class words hidden", titles=titles)
    before, after = _word_count(evaluation.titles or ()), _word_count(titles)
    plain = attribute_quality(evaluation.answerer, evaluation.outputs, evaluation.truth, "both", both)
    # A title may lose all its words; the photo is then all there is, as it would be in a shop.
    return {
        "both": changed_quality(attribute_quality(evaluation.answerer, outputs, evaluation.truth, "both", both), plain),
        "hidden_words": 1 - after / before,
        "examples": titles[:5],
    }


def hidden_titles(evaluation: Evaluation) -> list[str]:
    """The rows' titles with the class words of all attributes hidden."""
    stems = label_word_stems(label for labels in evaluation.answerer.attribute_labels.values() for label in labels)
    return [hide_class_words(title, stems) for title in evaluation.titles or ()]


def _word_count(titles: Sequence[str]) -> int:
    return max(1, sum(len(title.split()) for title in titles))
