"""Types of command-line options for argparse: numbers within limits.

Owns the reading of one option and the words that refuse it. Refuses to know which program asks. Imports nothing that is not
Python's own: `scripts.label` runs where little is installed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeVar

_Number = TypeVar("_Number", int, float)


def number_between(least: float, most: float) -> Callable[[str], float]:
    """Reads a number from `least` to `most`, both included; argparse refuses any other, NaN too."""
    return _between(float, least, most)


def whole_number_between(least: int, most: int) -> Callable[[str], int]:
    """Reads a whole number from `least` to `most`, both included; argparse refuses any other, 2.0 too."""
    return _between(int, least, most)


def _between(read: Callable[[str], _Number], least: _Number, most: _Number) -> Callable[[str], _Number]:
    # argparse puts the function's name into its message: "invalid number value: 'x'".
    def number(text: str) -> _Number:
        value = read(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"must be from {least:g} to {most:g}")
        return value

    return number
