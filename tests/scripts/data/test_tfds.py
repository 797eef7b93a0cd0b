from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.config import CatalogueConfig, NetworkConfig, RunConfig
from scripts.data.catalogue import Catalogue, load_catalogue
from scripts.data.errors import CatalogueError

LABELS = ["Bag", "Shoe"]


def config_of(dataset: str, data: Path | None = None, **catalogue: Any) -> RunConfig:
    network = NetworkConfig(image_height=10, image_width=10)
    return RunConfig("shop", CatalogueConfig(kind="tfds", dataset=dataset, path=data, **catalogue), network)


def test_without_the_extra_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(CatalogueError, match=r'pip install "itemlens\[tfds\]"'):
        load_catalogue(config_of("fashion_mnist"), cache_dir=tmp_path)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a real builder has prepared the set `tiny_shop`: 20 train and 10 test examples."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries while they are imported
        for module in ("tensorflow_datasets", "importlib_resources"):
            pytest.importorskip(module, reason="the optional extra tfds is not installed")
        import tensorflow_datasets as tfds

        class TinyShop(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]
            VERSION = tfds.core.Version("1.2.3")

            def _info(self) -> Any:
                return self.dataset_info_from_configs(
                    features=tfds.features.FeaturesDict(
                        {
                            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                            "label": tfds.features.ClassLabel(names=LABELS),
                            "title": tfds.features.Text(),
                        }
                    )
                )

            def _split_generators(self, dl_manager: Any) -> Any:
                return {
                    "train": self._generate_examples(0, 20),
                    "test": self._generate_examples(20, 30),
                    "unlabeled": self._generate_examples(30, 33),
                }

            def _generate_examples(self, start: int, stop: int) -> Iterator[tuple[int, dict[str, Any]]]:
                for i in range(start, stop):
                    image = np.full((12, 12, 3), 7 * i, np.uint8)
                    yield i, {"image": image, "label": -1 if i == 3 else i % 2, "title": f" Item {i} "}

        folder = tmp_path_factory.mktemp("tensorflow_datasets")
        TinyShop(data_dir=str(folder)).download_and_prepare()
    return folder


@pytest.fixture(scope="module")
def loaded(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Catalogue, Catalogue, Path]:
    cache = tmp_path_factory.mktemp("cache")
    config = config_of("tiny_shop", prepared, text_column="title")
    return load_catalogue(config, cache_dir=cache), load_catalogue(config, cache_dir=cache), cache


def test_photos_labels_and_titles_stay_together(loaded: tuple[Catalogue, Catalogue, Path]) -> None:
    catalogue = loaded[0]
    assert catalogue.photos.shape == (29, 10, 10, 3)
    assert catalogue.photo_present.all()
    for row, title in enumerate(catalogue.titles):
        number = int(title.removeprefix("Item "))
        assert (catalogue.photos[row] == 7 * number).all()
        assert catalogue.labels["label"][row] == LABELS[number % 2]
    assert catalogue.config.catalogue.label_columns == ("label",)


def test_splits_are_mapped_and_a_missing_val_is_carved_out_of_train(loaded: tuple[Catalogue, Catalogue, Path]) -> None:
    catalogue = loaded[0]
    held_out = {title for title, split in zip(catalogue.titles, catalogue.split, strict=True) if split == "test"}
    assert held_out == {f"Item {i}" for i in range(20, 30)}
    assert catalogue.report.rows_per_split["val"] >= 1
    assert any("unlabeled" in note for note in catalogue.report.notes)


def test_an_unlabelled_example_is_a_counted_bad_row(loaded: tuple[Catalogue, Catalogue, Path]) -> None:
    report = loaded[0].report
    assert report.counts_by_reason() == {"no_label": 1}
    assert (report.rows_read, report.rows_dropped, report.source) == (30, 1, "tiny_shop/1.2.3")


def test_the_second_start_reads_the_cache(loaded: tuple[Catalogue, Catalogue, Path]) -> None:
    first, second, cache = loaded
    assert (first.photos == second.photos).all()
    assert len(list(cache.iterdir())) == 2


def test_wrong_features_are_named(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match=r"no column 'labels'.*Did you mean 'label'"):
        load_catalogue(config_of("tiny_shop", prepared, label_columns=("labels",)), cache_dir=tmp_path)
    with pytest.raises(CatalogueError, match="'label' is no image feature; these are: image"):
        load_catalogue(config_of("tiny_shop", prepared, image_column="label"), cache_dir=tmp_path)


def test_an_unknown_set_is_one_clear_line(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="'tiny_shpo' cannot be prepared") as caught:
        load_catalogue(config_of("tiny_shpo", prepared), cache_dir=tmp_path)
    assert "\n" not in str(caught.value)


def test_a_set_by_name_is_read_from_mocked_examples(tmp_path: Path, prepared: Path) -> None:
    """`prepared` is asked for its imports and their skips; the examples are TensorFlow Datasets' own random ones."""
    import tensorflow_datasets as tfds

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the mock's own deprecations
        with tfds.testing.mock_data(num_examples=12):
            catalogue = load_catalogue(config_of("mnist"), cache_dir=tmp_path)
    assert catalogue.photos.shape == (24, 10, 10, 3)
    assert catalogue.photo_present.all()
    assert list(catalogue.labels) == ["label"]
    assert set(catalogue.labels["label"]) <= set("0123456789")
    assert set(catalogue.split) == {"train", "val", "test"}
