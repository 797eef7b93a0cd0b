"""The config of a training run, from a TOML file, a preset, or flags.

Owns where configs come from, against which folder their paths resolve, and what must fit together. The values and their
bounds are in `scripts.config_schema`. Presets live in `scripts/presets/*.toml`; a preset is an ordinary config file.
"""

from __future__ import annotations

import argparse
import re
import textwrap
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from scripts.config_reading import ConfigError, read_dataclass
from scripts.config_schema import CatalogueConfig, NetworkConfig, PhotoSource, RunConfig, TeachersConfig, TrainingConfig

__all__ = [
    "CatalogueConfig",
    "ConfigError",
    "NetworkConfig",
    "PhotoSource",
    "RunConfig",
    "TeachersConfig",
    "TrainingConfig",
    "add_config_flags",
    "config_from_arguments",
    "config_from_flags",
    "load_config",
    "load_preset",
    "preset_names",
]

_PRESETS = Path(__file__).parent / "presets"
# Also the name of a folder and a part of URLs.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def load_config(path: Path, *, data: Path | None = None) -> RunConfig:
    """Read a TOML config. Relative paths in it resolve against `data`, or else against the config's own folder.

    `preset = "small"` at its top takes that preset's network and training, with the file's own keys on top.

    Raises:
        ConfigError: no such file, not TOML, an unknown key, a wrong type, a value out of bounds, or keys that do not fit
            together.
    """
    values = _read_toml(path)
    preset = values.pop("preset", None)
    base = None
    if preset is not None:
        if not isinstance(preset, str):
            raise ConfigError(f"{path.name}: preset must be one of {', '.join(preset_names())}")
        base = _preset(preset)
    values.setdefault("name", path.stem)
    return _build(values, base, source=path.name, data=data, folder=path.parent)


def load_preset(name: str, data: Path | None = None) -> RunConfig:
    """Read a preset. `data` is the folder that its paths resolve against, or the catalogue's file itself.

    Raises:
        ConfigError: there is no such preset, or it has no catalogue of its own and needs the flags for one.
    """
    config = _located(_preset(name), data=data, folder=Path())
    _check(config, f"preset {name}")
    return config


def preset_names() -> list[str]:
    """Names that `load_preset` knows, sorted."""
    return sorted(path.stem for path in _PRESETS.glob("*.toml"))


def config_from_flags(
    *,
    name: str,
    catalogue: Path,
    image_column: str | None = None,
    text_column: str | None = None,
    label_columns: Sequence[str] = (),
    auxiliary_columns: Sequence[str] = (),
    hierarchy: Sequence[str] = (),
    split_column: str | None = None,
    photos: Sequence[Path] = (),
    image_pattern: str | None = None,
    preset: str = "small",
) -> RunConfig:
    """A config for a CSV or JSONL without a file: the columns as given, network and training of `preset`.

    `photos` are folders or zips; none means the catalogue's own folder.

    Raises:
        ConfigError: a value is wrong, or needed ones are missing.
    """
    given: dict[str, Any] = {
        "path": catalogue,
        "image_column": image_column,
        "image_pattern": image_pattern,
        "text_column": text_column,
        "label_columns": list(label_columns) or list(hierarchy),
        "auxiliary_columns": list(auxiliary_columns),
        "hierarchy": list(hierarchy),
        "split_column": split_column,
        "photos": [str(path) for path in photos],
    }
    values = {"name": name, "catalogue": {key: value for key, value in given.items() if value}}
    return _build(values, _preset(preset), source="the command line", data=None, folder=Path())


def add_config_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that `config_from_arguments` reads, with the presets' descriptions as the parser's epilogue."""
    parser.epilog = "presets:\n" + "\n".join(_described(name) for name in preset_names())
    where = parser.add_argument_group("what to train on", "a preset, a config file, or a catalogue named by flags")
    where.add_argument("--preset", choices=preset_names(), help="a config that comes with Itemlens; see below")
    where.add_argument("--config", type=Path, metavar="FILE.toml", help="your own config; docs in scripts/config_schema.py")
    where.add_argument("--data", type=Path, metavar="DIR", help="folder that the config's relative paths resolve against")
    where.add_argument("--name", help="the model's name (default: the config's, or the catalogue's file name)")
    flags = parser.add_argument_group("a catalogue without a config file", "network and training follow --preset (small)")
    flags.add_argument("--catalogue", type=Path, metavar="FILE", help="CSV or JSONL, .gz allowed")
    flags.add_argument("--image-column", help="column with the photo's path, file name or id")
    flags.add_argument("--image-pattern", help="photo path made of columns, such as 'images/{id}.jpg'")
    flags.add_argument("--text-column", help="column with the title")
    flags.add_argument("--label-columns", nargs="+", default=[], metavar="COLUMN", help="columns to learn")
    flags.add_argument("--hierarchy", nargs="+", default=[], metavar="COLUMN", help="label columns from coarse to fine")
    flags.add_argument("--split-column", help="column with train, val or test (default: a split by title)")
    flags.add_argument("--photos", nargs="+", type=Path, default=[], metavar="PATH", help="photo folders or zips")
    parser.add_argument("--epochs", type=int, help="instead of the config's")
    parser.add_argument("--taught-epochs", type=int, help="instead of the config's; 0 trains without a second round")
    parser.add_argument("--unmixed-epochs", type=int, help="instead of the config's; epochs of the last round")
    parser.add_argument("--finishing-passes", type=int, help="instead of the config's")
    parser.add_argument("--seed", type=int, help="instead of the config's")


def config_from_arguments(arguments: argparse.Namespace) -> RunConfig:
    """The config that the flags of `add_config_flags` ask for.

    Raises:
        ConfigError: the flags contradict each other, or the config is wrong.
    """
    of_catalogue = ("image_column", "image_pattern", "text_column", "label_columns", "hierarchy", "split_column", "photos")
    if arguments.catalogue is not None:
        if arguments.config is not None:
            raise ConfigError("--catalogue and --config exclude each other: name the file inside the config")
        base = arguments.data or Path()
        config = config_from_flags(
            name=arguments.name or _name_from(arguments.catalogue),
            catalogue=base / arguments.catalogue,
            preset=arguments.preset or "small",
            **{name: getattr(arguments, name) for name in of_catalogue if name != "photos"},
            photos=[base / path for path in arguments.photos],
        )
    else:
        for name in of_catalogue:
            if getattr(arguments, name):
                raise ConfigError(f"--{name.replace('_', '-')} describes a --catalogue, which is missing")
        if (arguments.config is None) == (arguments.preset is None):
            raise ConfigError("say what to train on: either --preset, or --config, or --catalogue with its columns")
        if arguments.config is not None:
            config = load_config(arguments.config, data=arguments.data)
        else:
            config = load_preset(arguments.preset, arguments.data)
        if arguments.name:
            config = replace(config, name=arguments.name)
    changeable = ("epochs", "taught_epochs", "unmixed_epochs", "finishing_passes", "seed")
    overrides = {key: value for key in changeable if (value := getattr(arguments, key)) is not None}
    values = {"name": config.name, "training": overrides}
    config = read_dataclass(RunConfig, values, source="the command line", base=config)
    _check(config, "the command line")
    return config


def _build(values: Mapping[str, Any], base: RunConfig | None, *, source: str, data: Path | None, folder: Path) -> RunConfig:
    if base is not None:  # a preset's columns mean nothing to another catalogue
        base = replace(base, catalogue=CatalogueConfig(), description="")
    config = read_dataclass(RunConfig, values, source=source, base=base)
    config = _located(config, data=data, folder=folder)
    _check(config, source)
    return config


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"there is no config file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path.name} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path.name} is not valid TOML: {error}") from error


def _preset(name: str) -> RunConfig:
    known = preset_names()
    if name not in known:
        close = get_close_matches(name, known, n=1)
        meant = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"there is no preset {name!r}; there are {', '.join(known)}.{meant}")
    values = _read_toml(_PRESETS / f"{name}.toml")
    base = _preset(values.pop("preset")) if "preset" in values else None  # its catalogue too
    return read_dataclass(RunConfig, {"name": name} | values, source=f"preset {name}", base=base)


def _located(config: RunConfig, *, data: Path | None, folder: Path) -> RunConfig:
    """The same config with its relative paths resolved."""
    catalogue = config.catalogue
    path = catalogue.path
    if data is not None and data.is_file() and catalogue.kind == "table":
        path, base = data, data.parent
    elif catalogue.kind != "table" and path is None:
        return replace(config, catalogue=replace(catalogue, path=data))
    else:
        base = data if data is not None else folder

    def locate(sources: tuple[PhotoSource, ...]) -> tuple[PhotoSource, ...]:
        return tuple(replace(source, path=base / source.path) for source in sources)

    catalogue = replace(
        catalogue,
        path=None if path is None else path if path is data else base / path,
        photos=locate(catalogue.photos),
        extra_photos=locate(catalogue.extra_photos),
    )
    return replace(config, catalogue=catalogue)


def _check(config: RunConfig, source: str) -> None:
    """What must fit together. Raises ConfigError."""
    catalogue, network = config.catalogue, config.network
    if not _NAME.fullmatch(config.name):
        raise ConfigError(
            f"{source}: name may hold letters, digits, '.', '_' and '-' (1 to 64, a letter or digit first), "
            f"not {config.name[:80]!r}"
        )
    if catalogue.kind == "tfds" and not catalogue.dataset:
        raise ConfigError(f'{source}: catalogue.dataset must name the TensorFlow data set, such as "fashion_mnist"')
    if catalogue.kind == "table":
        if catalogue.path is None:
            raise ConfigError(f"{source} has no catalogue of its own: add --catalogue FILE, or catalogue.path in a config")
        if not catalogue.label_columns:
            raise ConfigError(f"{source}: name at least one label column (--label-columns, or catalogue.label_columns)")
        if not (catalogue.image_column or catalogue.image_pattern or catalogue.text_column):
            raise ConfigError(f"{source}: name the image column, the text column, or both (--image-column, --text-column)")
        if strangers := [c for c in catalogue.hierarchy if c not in catalogue.label_columns]:
            raise ConfigError(f"{source}: hierarchy names {strangers[0]!r}, which is not among the label columns")
    if both := [c for c in catalogue.auxiliary_columns if c in catalogue.label_columns]:
        raise ConfigError(f"{source}: {both[0]!r} is both a label column and an auxiliary column; choose one")
    for key in ("label_columns", "auxiliary_columns", "hierarchy"):
        columns = getattr(catalogue, key)
        if len(set(columns)) != len(columns):
            raise ConfigError(f"{source}: catalogue.{key} names a column twice")
    if len(catalogue.hierarchy) == 1:
        raise ConfigError(f"{source}: catalogue.hierarchy needs at least two columns, from coarse to fine")
    if bool(network.image_height) != bool(network.image_width):
        raise ConfigError(f"{source}: network.image_height and image_width must both be 0 (no image branch) or neither")
    if not network.image_height and not network.max_tokens:
        raise ConfigError(f"{source}: the network has neither an image branch (image_height) nor a text branch (max_tokens)")
    for table, sizes in (("network", network), ("teachers", config.teachers)):
        if len(sizes.widths) != len(sizes.depths) or not sizes.widths:
            raise ConfigError(f"{source}: {table}.widths and {table}.depths must have one entry per stage each")
    rising = all(a < b for a, b in zip(network.dimensions, network.dimensions[1:], strict=False))
    if not rising or network.dimensions[-1:] != (network.embedding_width,):
        raise ConfigError(f"{source}: network.dimensions must rise and end with embedding_width ({network.embedding_width})")


def _name_from(path: Path) -> str:
    stem = path.name.split(".")[0]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._") or "catalogue"


def _described(name: str) -> str:
    text = " ".join(_preset(name).description.split())
    return textwrap.fill(f"{name}: {text}", 100, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
