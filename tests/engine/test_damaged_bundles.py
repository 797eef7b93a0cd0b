"""Whatever happens to a bundle's bytes, it is refused in one line, before any parser of a model sees them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.engine import loading
from app.engine.errors import BundleError
from app.engine.loading import load_version
from app.engine.rollout import Rollout
from app.engine.settings import EngineSettings
from tests.damage import DAMAGE, flip

TRUNCATIONS = 20
FLIPS = 200


@pytest.fixture
def no_model_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*_: object, **__: object) -> None:
        raise AssertionError("a model file was opened")

    monkeypatch.setattr(loading, "open_runtime", opened)


def refusal(folder: Path, runtime: str = "litert") -> str:
    """What the operator reads. Raises Failed when the bundle is accepted."""
    settings = EngineSettings(models_dir=folder.parent.parent, runtime=runtime, runtime_threads=1)  # type: ignore[arg-type]
    rollout = Rollout(settings)
    rollout.look(at_once=True)
    plan = rollout.proposal()
    assert plan is not None
    with pytest.raises(BundleError) as refused:
        load_version(plan.versions()[0], settings)
    assert refused.value.detail.startswith("tiny/1: ")
    assert "\n" not in refused.value.detail
    return refused.value.detail


def files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


@pytest.mark.usefixtures("no_model_is_opened")
def test_every_truncation_is_refused(tiny_copy: Path) -> None:
    for path in list(files(tiny_copy)):
        data = path.read_bytes()
        lengths = sorted({len(data) * step // TRUNCATIONS for step in range(TRUNCATIONS)})
        for length in lengths:
            path.write_bytes(data[:length])
            assert refusal(tiny_copy), (path.name, length)
        path.write_bytes(data)


@pytest.mark.usefixtures("no_model_is_opened")
def test_every_flipped_bit_is_refused(tiny_copy: Path) -> None:
    generator = random.Random(20261125)
    everything = list(files(tiny_copy))
    for _ in range(FLIPS):
        path = generator.choice(everything)
        bit = generator.randrange(8 * path.stat().st_size)
        flip(path, bit)
        assert refusal(tiny_copy), (path.name, bit)
        flip(path, bit)


@pytest.mark.usefixtures("no_model_is_opened")
def test_no_byte_of_the_manifests_hash_is_idle(tiny_copy: Path) -> None:
    path = tiny_copy / "manifest.sha256"
    bits = 8 * path.stat().st_size
    # One or two of every byte, since seven goes round; and all of the last, where other white space would be let through.
    for bit in (*range(0, bits, 7), *range(bits - 8, bits)):
        flip(path, bit)
        assert "manifest.sha256" in refusal(tiny_copy), bit
        flip(path, bit)


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("runtime", ["litert", "auto"])
def test_every_kind_of_damage_is_refused(tiny_copy: Path, damage: Callable[[Path], None], runtime: str) -> None:
    damage(tiny_copy)
    assert refusal(tiny_copy, runtime)
