"""Numbers outside their limits are refused in words that name the limits."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import pytest

from scripts.argument_types import number_between, whole_number_between


def read(kind: Callable[[str], Any], text: str) -> Any:
    parser = argparse.ArgumentParser(prog="program")
    parser.add_argument("--rate", type=kind)
    return parser.parse_args([f"--rate={text}"]).rate


@pytest.mark.parametrize(("text", "value"), [("0.5", 0.5), ("10", 10.0), ("2", 2.0), ("1e1", 10.0)])
def test_a_number_within_the_limits_is_read(text: str, value: float) -> None:
    found = read(number_between(0.5, 10.0), text)
    assert found == value
    assert isinstance(found, float)


@pytest.mark.parametrize(("text", "value"), [("1", 1), ("4096", 4096)])
def test_a_whole_number_within_the_limits_is_read(text: str, value: int) -> None:
    found = read(whole_number_between(1, 4096), text)
    assert found == value
    assert isinstance(found, int)


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (number_between(0.5, 100_000.0), "0.49", "argument --rate: must be from 0.5 to 100000"),
        (number_between(0.5, 100_000.0), "100001", "argument --rate: must be from 0.5 to 100000"),
        (number_between(0.0, 1.0), "nan", "argument --rate: must be from 0 to 1"),
        (number_between(0.0, 1.0), "inf", "argument --rate: must be from 0 to 1"),
        (number_between(0.0, 1.0), "half", "argument --rate: invalid number value: 'half'"),
        (whole_number_between(1, 4096), "0", "argument --rate: must be from 1 to 4096"),
        (whole_number_between(1, 4096), "4097", "argument --rate: must be from 1 to 4096"),
        (whole_number_between(1, 4096), "2.5", "argument --rate: invalid number value: '2.5'"),
    ],
)
def test_any_other_is_refused_with_the_reason(
    kind: Callable[[str], Any], text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        read(kind, text)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
