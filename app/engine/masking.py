"""Personal data in a title, taken out before anything reads the title; the one path for training and serving.

Owns what counts as personal data: e-mail addresses, phone, card and account numbers (IBAN) and IP addresses, each by its
form and its check digits. Names and postal addresses have no form and stay; so do number plates, which look like article
numbers. Where a number could be either, check digits, lengths and prefixes decide for the article: an EAN must stay
readable. Every step takes time linear in the title.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from itertools import accumulate, pairwise

_MASK = " "
"""A space: to the tokenizer, a title without the number."""

_MIN_DIGITS, _MAX_DIGITS = 7, 19
_MAX_PHONE_DIGITS = 15
"""E.164."""
_MAX_GROUPS = 7

_DIGIT = re.compile(r"\d")
_NAME, _HOST = r"""(?:(?<![\w.+%'-])[\w.+%'-]{1,64}|"[^"@]{1,64}")""", r"(?:[\w-]{1,63}\.){1,8}"
_EMAIL = re.compile(rf"{_NAME}@{_HOST}(?:xn--[a-z0-9-]{{2,59}}|[^\W\d_]{{2,24}})(?![^\W_])", re.IGNORECASE)
_IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?!\.?\w)")
_IPV6 = re.compile(r"(?<![\w:.])(?=[^\s:]{0,4}:)[0-9A-Fa-f:]{2,39}(?:\.\d{1,3}){0,3}(?:%\w{1,16})?(?![\w:])")
_IBAN_START = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?=[ \u00a0-]?[A-Za-z0-9])")
_GROUP = re.compile(r"\d+")
# Between the groups of one number: a space, a sign, or a bracket with one or two.
_SEPARATOR = re.compile(r"[ \u00a0]|[-\u2010\u2011\u2013./]|[ \u00a0-]?[()][ \u00a0-]?|[ \u00a0][-\u2013/][ \u00a0]")
_PHONE_CUE = re.compile(
    r"(?<!\w)(?:tel|telephone|telefon|telefoon|téléphone|tél|telefono|teléfono|ph|phone|mob|mobile|móvil|cell|handy|call|whatsapp"
    r"|wa|fax|sms|contact (?:no|us|number|at|on))\.?(?: ?(?:no|nr|number|us|me|at|on|now)\b\.?){0,2}[ :.#-]{0,3}[+(]{0,2}$",
    re.IGNORECASE,
)
_ARTICLE_CUE = re.compile(
    r"(?<!\w)(?:ean|upc|gtin|isbn|asin|sku|mpn|art|article|artikel|ref|reference|model|item|style|code|part|serial|sn|no|nr)"
    r"\.?(?: ?(?:no|nr|number|code)\b\.?)?[ :.#-]{0,3}$",
    re.IGNORECASE,
)
_CUE_CHARS = 40
_UNIT = re.compile(
    r"[ \u00a0]?(?:ml|mm|cm|m|g|gm|gms|kg|mg|l|oz|lb|gb|tb|mb|mah|inch|in|w|v|hz|pcs|pc|pack|%|\"|x\b)(?!\w)", re.I
)
_DATE = re.compile(r"\d{1,2}[./-]\d{1,2}[./-](?:19|20)\d{2}")

# Length of an IBAN by country: the SWIFT IBAN registry, release 98.
_IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO",
        16: "BE",
        18: "DK FI FO GL NL SD",
        19: "MK SI",
        20: "AT BA EE KZ LT LU MN XK",
        21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA",
        23: "AE GI IL IQ OM SO TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST",
        26: "IS TR",
        27: "FR GR IT MC MR SM",
        28: "AL AZ BY CY DO GT HU LB NI PL SV",
        29: "BR EG PS QA UA",
        30: "JO KW MU",
        31: "MT SC",
        32: "LC",
        33: "RU",
    }.items()
    for country in countries.split()
}

# First digits and lengths of cards (ISO/IEC 7812). Visa's old 13 digits are left out: they are an EAN's.
_CARDS = (
    (re.compile("4"), (16, 19)),
    (re.compile("5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720|220[0-4]"), (16,)),
    (re.compile("3[47]"), (15,)),
    (re.compile("30[0-5]|3[689]"), (14,)),
    (re.compile("35(?:2[89]|[3-8])"), (16,)),
    (re.compile("6(?:011|4[4-9]|5|2|0|[3789])|50|5[678]|8[12]|9792"), (16, 17, 18, 19)),
)
_CARD_GROUPS = ((4, 4, 4, 4), (4, 4, 4, 4, 3), (4, 6, 5), (4, 6, 4), (6, 13), (8, 8))
_INDIAN_GROUPS = ((5, 5), (4, 3, 3), (1, 5, 5), (2, 5, 5), (2, 10))
_NORTH_AMERICAN_GROUPS = ((3, 3, 4), (1, 3, 3, 4))
_CHINESE_GROUPS = (3, 4, 4)
_KNOWN_GROUPS = {*_CARD_GROUPS, *_INDIAN_GROUPS, *_NORTH_AMERICAN_GROUPS, _CHINESE_GROUPS}


def mask_personal_data(text: str) -> str:
    """The title with each piece of personal data replaced by a space; unchanged where there is none."""
    if "@" in text:
        text = _EMAIL.sub(_MASK, text)
    if ":" in text:
        text = _IPV6.sub(_masked_ipv6, text)
    if len(_DIGIT.findall(text)) >= _MIN_DIGITS:
        text = _without(text, _ibans(text))
        text = _without(text, _numbers(text))
    if text.count(".") >= 3:
        text = _IPV4.sub(_masked_ipv4, text)
    return text


def _without(text: str, spans: Iterator[tuple[int, int]]) -> str:
    parts, position = [], 0
    for start, end in spans:
        parts += [text[position:start], _MASK]
        position = end
    return "".join([*parts, text[position:]]) if parts else text


def _masked_ipv4(found: re.Match[str]) -> str:
    return _MASK if all(int(part) <= 255 for part in found[0].split(".")) else found[0]


def _masked_ipv6(found: re.Match[str]) -> str:
    if found[0].count(":") < 2 or not _DIGIT.search(found[0]):
        return found[0]
    try:
        ipaddress.IPv6Address(found[0])
    except ValueError:
        return found[0]
    return _MASK


def _ibans(text: str) -> Iterator[tuple[int, int]]:
    free_from = 0
    for found in _IBAN_START.finditer(text):
        length = _IBAN_LENGTHS.get(found[0][:2].upper(), 0)
        if not length or found.start() < free_from:
            continue
        characters, position = "", found.start()
        while len(characters) < length and position < len(text):
            character = text[position]
            if character.isascii() and character.isalnum():
                characters += character
            elif character not in " \u00a0-" or not text[position - 1].isalnum():
                break
            position += 1
        if len(characters) == length and not text[position : position + 1].isalnum() and _passes_mod_97(characters):
            free_from = position
            yield found.start(), position


def _passes_mod_97(iban: str) -> bool:
    return int("".join(str(int(character, 36)) for character in iban[4:] + iban[:4])) % 97 == 1


def _numbers(text: str) -> Iterator[tuple[int, int]]:
    """Spans of card and phone numbers: at each group of digits, the longest run of groups that is one."""
    groups = [found.span() for found in _GROUP.finditer(text)]
    joined = [
        end < start <= end + 3 and _SEPARATOR.fullmatch(text, end, start) is not None
        for (_, end), (start, _) in pairwise(groups)
    ]
    joined.append(False)
    i = 0
    while i < len(groups):
        last = i
        digits = groups[i][1] - groups[i][0]
        while joined[last] and last + 1 < i + _MAX_GROUPS and digits <= _MAX_DIGITS:
            last += 1
            digits += groups[last][1] - groups[last][0]
        # Digits one by one are no number's groups.
        found = _longest(text, groups[i : last + 1]) if digits >= max(_MIN_DIGITS, last - i + 2) else None
        if found is not None:
            yield found[1], groups[i + found[0] - 1][1]
        i += found[0] if found else 1


def _longest(text: str, groups: list[tuple[int, int]]) -> tuple[int, int] | None:
    """How many of the groups, from the first on, are one number, and where it starts with its + or bracket."""
    start = opening = groups[0][0]
    while opening and text[opening - 1] in "(+" and start - opening < 3:
        opening -= 1
    cue = _cue(text, start)
    before = text[opening - 1 : opening]
    if before and (before.isalnum() or before in "_/.-") and cue != "phone":
        return None
    has_plus = "+" in text[opening:start]
    digits = "".join([text[a:b] for a, b in groups])
    if not digits.isascii():
        digits = "".join(str(int(digit)) for digit in digits)
    sizes = tuple([b - a for a, b in groups])
    may_have_brackets = "(" in text[opening : groups[-1][1]]
    is_marked = has_plus or cue == "phone" or digits[0] == "0" or may_have_brackets
    for count, length in reversed(list(enumerate(accumulate(sizes), 1))):
        if length < _MIN_DIGITS:
            break
        end, parts = groups[count - 1][1], sizes[:count]
        if not is_marked and count > 1 and parts not in _KNOWN_GROUPS:
            continue  # most lists of sizes and measures
        if length > _MAX_DIGITS or not _ends_at(text, end):
            continue
        number = digits[:length]
        if has_plus:
            is_found = _is_international(number)
        elif cue == "phone":
            is_found = length <= _MAX_PHONE_DIGITS
        elif _is_card(number, parts):
            is_found = True
        else:
            has_brackets = may_have_brackets and count > 1 and "(" in text[opening:end] and ")" in text[opening:end]
            is_found = (
                cue != "article"
                and _has_form_of_phone(number, parts, has_brackets)
                and not _UNIT.match(text, end)
                and not _DATE.match(text, start)
            )
        if is_found:
            return count, opening
    return None


def _cue(text: str, start: int) -> str:
    """What the word before a number says that it is: `phone`, `article` or nothing."""
    head = text[max(0, start - _CUE_CHARS) : start]
    if not head.rstrip(" :.#-+(")[-1:].isalpha():
        return "article" if head[-1:] == "#" else ""
    if _PHONE_CUE.search(head):
        return "phone"
    return "article" if _ARTICLE_CUE.search(head) else ""


def _ends_at(text: str, end: int) -> bool:
    after = text[end : end + 1]
    return not (after.isalnum() or after == "_" or (after in "-./" and text[end + 1 : end + 2].isdigit()))


def _is_card(digits: str, sizes: tuple[int, ...]) -> bool:
    length = len(digits)
    if not 14 <= length <= 19 or (len(sizes) > 1 and sizes not in _CARD_GROUPS):
        return False
    if not any(length in lengths and prefix.match(digits) for prefix, lengths in _CARDS):
        return False
    if length == 14 and len(sizes) == 1 and _is_gtin(digits):
        return False  # the number of a carton
    return _passes_luhn(digits)


def _is_international(digits: str) -> bool:
    if digits[0] == "1":
        return len(digits) == 11 and digits[1] in "23456789"
    return 8 <= len(digits) <= _MAX_PHONE_DIGITS and digits[0] != "0"


def _has_form_of_phone(digits: str, sizes: tuple[int, ...], has_brackets: bool) -> bool:
    length = len(digits)
    if len(sizes) == 1:
        return _is_unbroken_phone(digits)
    if digits.startswith("00") and digits[2] != "0":
        return 10 <= length <= 17
    if digits.startswith("011") and length >= 13:  # dialled from North America
        return length <= 17
    if digits[0] == "0" and sizes[0] > 1:
        # Pairs alone are sizes, unless they are five as in France.
        pairs = set(sizes) == {2}
        return 9 <= length <= 12 and digits[1] != "0" and min(sizes[1:]) > 1 and (not pairs or length == 10)
    if has_brackets:
        return 9 <= length <= 12
    return _is_grouped_without_zero(digits, sizes)


def _is_unbroken_phone(digits: str) -> bool:
    length = len(digits)
    if digits[:2] == "00":
        return 11 <= length <= 16 and digits[2] != "0" and not _is_gtin(digits)
    if digits[0] == "0":
        return length in (10, 11)
    if length == 12 and digits[:2] == "91" and digits[2] in "6789":
        return not _is_gtin(digits)
    return length == 10 and digits[0] in "6789"


def _is_grouped_without_zero(digits: str, sizes: tuple[int, ...]) -> bool:
    """India, North America and China, whose groups are their own; others' are told by +, 0, brackets or a word."""
    if sizes in _INDIAN_GROUPS:
        national = digits[-10:]
        return national[0] in "6789" and digits[:-10] in ("", "0", "91")
    if sizes in _NORTH_AMERICAN_GROUPS:
        national = digits[-10:]
        return national[0] in "23456789" and national[3] in "23456789" and digits[:-10] in ("", "1")
    return sizes == _CHINESE_GROUPS and digits[0] == "1" and digits[1] in "3456789"


def _passes_luhn(digits: str) -> bool:
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def _is_gtin(digits: str) -> bool:
    """Whether the last digit checks the others as in an EAN, UPC or GTIN-14."""
    if len(digits) not in (8, 12, 13, 14):
        return False
    return sum(int(digit) * (1 + 2 * (place % 2)) for place, digit in enumerate(reversed(digits))) % 10 == 0
