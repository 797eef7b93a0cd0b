from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

import pytest

from scripts.config import (
    CatalogueConfig,
    ConfigError,
    NetworkConfig,
    PhotoSource,
    RunConfig,
    TrainingConfig,
    add_config_flags,
    config_from_arguments,
    config_from_flags,
    load_config,
    load_preset,
    preset_names,
)
from scripts.config_reading import read_dataclass

MINIMAL = '[catalogue]\npath = "items.csv"\ntext_column = "title"\nlabel_columns = ["category"]\n'


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "shop.toml"
    path.write_text(text, encoding="utf-8")
    return path


def parse(*flags: str) -> RunConfig:
    parser = argparse.ArgumentParser()
    add_config_flags(parser)
    return config_from_arguments(parser.parse_args(flags))


def test_a_minimal_file_takes_the_defaults_and_its_own_name(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, MINIMAL))
    assert config.name == "shop"
    assert config.network == NetworkConfig()
    assert config.training == TrainingConfig()
    assert config.catalogue.label_columns == ("category",)


def test_paths_resolve_against_the_config_or_against_data(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + 'photos = ["a", { path = "/abs/b.zip", aspect_ratio = 1 }]\n')
    here = load_config(path).catalogue
    assert here.path == tmp_path / "items.csv"
    assert here.photos == (PhotoSource(tmp_path / "a"), PhotoSource(Path("/abs/b.zip"), aspect_ratio=1.0))
    there = load_config(path, data=Path("/data")).catalogue
    assert (there.path, there.photos[0].path) == (Path("/data/items.csv"), Path("/data/a"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("epoch = 3\n" + MINIMAL, "unknown key 'epoch'"),
        (MINIMAL + "[training]\nepoch = 3\n", "'training.epoch', did you mean 'epochs'?"),
        (MINIMAL + '[training]\nepochs = "3"\n', "training.epochs must be a whole number, not the string '3'"),
        (MINIMAL + "[training]\nepochs = true\n", "training.epochs must be a whole number, not true"),
        (MINIMAL + "[training]\nepochs = -1\n", "training.epochs must be between 0 and 10,000, not -1"),
        (MINIMAL + "[training]\nlearning_rate = nan\n", "training.learning_rate must be between"),
        (MINIMAL + '[training]\nimage_augmentation = "product"\n', "(did you mean 'products'?)"),
        (MINIMAL + "[network]\nwidths = [64, 0, 256]\n", "network.widths[1] must be between 1 and 4,096"),
        (MINIMAL + "[network]\nwidths = 64\n", "network.widths must be a list, not 64"),
        (MINIMAL + "[network]\nwidths = [64, 128]\n", "network.widths and network.depths must have one entry per stage"),
        (MINIMAL + "[teachers]\ndepths = [2, 2]\n", "teachers.widths and teachers.depths must have one entry per stage"),
        (MINIMAL + "[network]\nimage_width = 0\n", "must both be 0"),
        (MINIMAL + "[network]\ndimensions = [64, 32, 256]\n", "network.dimensions must rise"),
        (MINIMAL + "[network]\nimage_height = 0\nimage_width = 0\nmax_tokens = 0\n", "neither an image branch"),
        (MINIMAL + 'photos = [{ folder = "x" }]\n', "'catalogue.photos[0].folder'"),
        (MINIMAL + "photos = [{ aspect_ratio = 1.0 }]\n", "catalogue.photos[0].path is missing"),
        (MINIMAL + 'hierarchy = ["kind", "category"]\n', "hierarchy names 'kind'"),
        (MINIMAL + 'auxiliary_columns = ["category"]\n', "both a label column and an auxiliary"),
        ('name = "a/b"\n' + MINIMAL, "name may hold"),
        ('preset = "smal"\n' + MINIMAL, "Did you mean 'small'?"),
        ("catalogue = 3\n", "catalogue must be a table, not 3"),
        ('[catalogue]\nlabel_columns = ["a"]\ntext_column = "t"\n', "has no catalogue of its own"),
        ('[catalogue]\npath = "a.csv"\ntext_column = "t"\n', "at least one label column"),
        ('[catalogue]\npath = "a.csv"\nlabel_columns = ["a"]\n', "image column, the text column, or both"),
        ('[catalogue]\nkind = "tfds"\n', "must name the TensorFlow data set"),
        ("name = \n", "not valid TOML"),
        ("", "catalogue is missing"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_file_and_what_is_allowed(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text))
    message = str(caught.value)
    assert expected in message
    assert "\n" not in message
    if "preset" not in text:
        assert "shop.toml" in message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no config file"):
        load_config(tmp_path / "none.toml")


def test_a_file_may_build_on_a_preset(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, 'preset = "small"\n' + MINIMAL + "[training]\nepochs = 7\n"))
    small = load_config(write(tmp_path, 'preset = "small"\n' + MINIMAL))
    assert config.training.epochs == 7
    assert config.training.batch_size == small.training.batch_size != TrainingConfig().batch_size
    assert config.network == small.network


def test_every_preset_reads_and_says_how_it_is_run() -> None:
    assert preset_names() == ["fashion", "fashion-taught", "mnist", "small"]
    parser = argparse.ArgumentParser()
    add_config_flags(parser)
    for name in preset_names():
        assert f"  {name}: " in str(parser.epilog)
    for name in ("fashion", "mnist"):
        assert f"--preset {name}" in load_preset(name, Path("/data")).description


def test_the_mnist_preset_downloads_unless_data_is_given(tmp_path: Path) -> None:
    assert load_preset("mnist").catalogue.path is None
    assert load_preset("mnist", tmp_path).catalogue.path == tmp_path
    assert load_preset("mnist").training.epochs == 5
    assert load_preset("mnist").network.max_tokens == 0


def test_data_may_be_the_table_itself(tmp_path: Path) -> None:
    table = tmp_path / "renamed.csv"
    table.write_text("id\n1\n")
    catalogue = load_preset("fashion", table).catalogue
    assert catalogue.path == table
    assert catalogue.photos[0].path == tmp_path / "images.zip"


def test_the_small_preset_asks_for_a_catalogue() -> None:
    with pytest.raises(ConfigError, match="add --catalogue"):
        load_preset("small")
    with pytest.raises(ConfigError, match="there are fashion, fashion-taught, mnist, small"):
        load_preset("tiny")


def test_flags_alone_describe_a_catalogue() -> None:
    config = config_from_flags(
        name="shop",
        catalogue=Path("items.csv"),
        image_column="photo",
        text_column="title",
        hierarchy=("department", "category"),
        split_column="part",
        photos=(Path("photos.zip"),),
    )
    catalogue = config.catalogue
    assert catalogue.label_columns == catalogue.hierarchy == ("department", "category")
    assert catalogue.photos == (PhotoSource(Path("photos.zip")),)
    assert config.training.epochs > TrainingConfig().epochs


def test_the_command_line_reaches_every_source(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    assert parse("--config", str(path), "--epochs", "2", "--seed", "9", "--name", "other") == RunConfig(
        "other",
        CatalogueConfig(path=tmp_path / "items.csv", text_column="title", label_columns=("category",)),
        training=TrainingConfig(epochs=2, seed=9),
    )
    rounds = ("--taught-epochs", "0", "--unmixed-epochs", "3", "--finishing-passes", "2")
    short = parse("--preset", "fashion", "--data", "/data", *rounds).training
    assert (short.taught_epochs, short.unmixed_epochs, short.finishing_passes) == (0, 3, 2)
    assert short.epochs == load_preset("fashion").training.epochs, "what no flag names stays"
    assert parse("--preset", "fashion", "--data", "/data").catalogue.path == Path("/data/styles.csv")
    by_flags = parse("--catalogue", "my items.csv.gz", "--text-column", "t", "--label-columns", "a", "b", "--data", "/d")
    assert (by_flags.name, by_flags.catalogue.path) == ("my-items", Path("/d/my items.csv.gz"))
    assert by_flags.catalogue.label_columns == ("a", "b")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], "either --preset, or --config, or --catalogue"),
        (["--preset", "fashion", "--config", "a.toml"], "either --preset"),
        (["--catalogue", "a.csv", "--config", "a.toml"], "exclude each other"),
        (["--preset", "fashion", "--text-column", "t"], "--text-column describes a --catalogue"),
        (["--catalogue", "a.csv"], "--label-columns"),
        (["--preset", "fashion", "--epochs=-1"], "training.epochs must be between"),
        (["--preset", "small"], "add --catalogue"),
    ],
)
def test_contradicting_flags_are_explained(flags: list[str], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        parse(*flags)


@pytest.mark.parametrize("cls", [CatalogueConfig, NetworkConfig, TrainingConfig])
def test_defaults_are_within_their_own_bounds(cls: type) -> None:
    default = cls()
    values = {f.name: getattr(default, f.name) for f in fields(cls) if getattr(default, f.name) is not None}
    assert read_dataclass(cls, values, source="defaults") == default
