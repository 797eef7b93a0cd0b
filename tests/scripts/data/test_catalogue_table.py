from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.engine.images import decode_photo
from scripts.config import NetworkConfig, PhotoSource, load_preset
from scripts.data.errors import CatalogueError
from tests.scripts.data.catalogue_files import load, photo_bytes, table_config, write_csv, write_photos, write_zip

ROWS: list[list[object]] = [[i, ("Shirts", "Shoes")[i % 2], f"Product number {i}"] for i in range(1, 21)]
SHADES = {f"{i}.png": 10 * i for i in range(1, 21)}


def test_csv_with_a_folder_gives_every_row_its_own_photo(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "images", SHADES)
    catalogue = load(table_config(write_csv(tmp_path / "items.csv", ROWS), photos), tmp_path)
    assert catalogue.photos.shape == (20, 8, 6, 3)
    assert catalogue.photos[:, 4, 3, 0].tolist() == [10 * i for i in range(1, 21)]
    assert catalogue.photo_present.all()
    assert catalogue.titles[4] == "Product number 5"
    assert catalogue.labels["category"].tolist() == [row[1] for row in ROWS]
    assert catalogue.row_ids == [str(row[0]) for row in ROWS]


def test_personal_data_in_titles_is_masked_as_the_service_masks_it(tmp_path: Path) -> None:
    rows = [*ROWS[:-2], [19, "Shirts", "Shirt of jane@example.com"], [20, "Shoes", "+91 98765 43210"]]
    photos = write_photos(tmp_path / "images", SHADES)
    catalogue = load(table_config(write_csv(tmp_path / "items.csv", rows), photos), tmp_path)
    assert [title for title in catalogue.titles if "Product" not in title] == ["Shirt of", ""]


@pytest.mark.parametrize("inside", ["", "images/", "set/images/"])
def test_csv_with_a_zip_needs_no_particular_folder_inside(tmp_path: Path, inside: str) -> None:
    files = {f"{inside}{i}.jpg": photo_bytes(10 * i, kind="JPEG") for i in range(1, 21)}
    archive = write_zip(tmp_path / "images.zip", files | {f"__MACOSX/{inside}._1.jpg": b"junk"})
    catalogue = load(table_config(write_csv(tmp_path / "items.csv", ROWS), archive), tmp_path)
    assert np.abs(catalogue.photos[:, 4, 3, 0].astype(int) - [10 * i for i in range(1, 21)]).max() <= 2


def test_photos_are_the_pixels_that_the_service_makes(tmp_path: Path) -> None:
    data = photo_bytes(90, size=(50, 20), kind="JPEG")
    archive = write_zip(tmp_path / "images.zip", {f"{i}.jpg": data for i in range(1, 21)})
    catalogue = load(table_config(write_csv(tmp_path / "items.csv", ROWS), archive), tmp_path)
    np.testing.assert_array_equal(catalogue.photos[3], decode_photo(data, height=8, width=6, max_pixels=10_000))


def test_jsonl_with_an_image_pattern(tmp_path: Path) -> None:
    write_photos(tmp_path, {f"images/{i}-front.png": 10 * i for i in range(1, 21)})
    path = tmp_path / "items.jsonl"
    path.write_text("\n".join(json.dumps({"id": i, "category": c, "title": t}) for i, c, t in ROWS))
    config = table_config(path, tmp_path / "images", image_column=None, image_pattern="images/{id}-front.png")
    assert load(config, tmp_path).photos[:, 4, 3, 0].tolist() == [10 * i for i in range(1, 21)]


def test_photos_default_to_the_folder_of_the_table(tmp_path: Path) -> None:
    write_photos(tmp_path / "images", SHADES)
    rows = [[f"images/{i}.png", c, t] for i, c, t in ROWS]
    config = table_config(write_csv(tmp_path / "items.csv", rows), image_column="id")
    assert load(config, tmp_path).photo_present.all()


def test_bad_rows_are_counted_listed_and_never_fatal(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "images", SHADES)
    (photos / "3.png").write_bytes(photo_bytes(1)[:40])
    (photos / "4.png").write_bytes(b"GIF89a not one of ours")
    (photos / "5.png").unlink()
    rows = [list(row) for row in ROWS]
    rows[5][1] = ""  # id 6: no label
    rows[6][1] = "NA"  # id 7: no label either
    rows[7][2] = ""  # id 8: photo only
    (photos / "9.png").unlink()
    rows[8][2] = ""  # id 9: nothing
    (photos / "10.png").write_bytes(b"junk")
    rows[9][2] = ""  # id 10: broken photo, no title
    catalogue = load(table_config(write_csv(tmp_path / "items.csv", rows), photos), tmp_path)
    report = catalogue.report
    assert report.counts_by_reason() == {
        "undecodable_photo": 1, "unsupported_photo_type": 1, "missing_photo": 1, "no_label": 2, "missing_title": 1,
        "no_photo_no_title": 2,
    }  # fmt: skip
    assert [(i.line, i.row_id) for i in report.issues if not i.used] == [(7, "6"), (8, "7"), (10, "9"), (11, "10")]
    assert (report.rows_read, report.rows_kept, report.rows_dropped) == (20, 16, 4)
    # The rows behind a dropped one still have their own photos.
    by_id = {row_id: i for i, row_id in enumerate(catalogue.row_ids)}
    assert catalogue.photos[by_id["11"], 4, 3, 0] == 110
    assert catalogue.photos[by_id["20"], 4, 3, 0] == 200
    for row_id in ("3", "4", "5"):
        assert not catalogue.photo_present[by_id[row_id]]
        assert not catalogue.photos[by_id[row_id]].any()
    assert len(catalogue.photos) == len(catalogue.titles) == 16


def test_a_cell_cannot_reach_outside_the_photo_folder(tmp_path: Path) -> None:
    write_photos(tmp_path, {"secret/key.png": 255})
    photos = write_photos(tmp_path / "images", SHADES)
    rows = [[i, c, t] for i, c, t in ROWS]
    rows[0][0] = "../secret/key.png"
    catalogue = load(table_config(write_csv(tmp_path / "items.csv", rows), photos), tmp_path)
    assert not catalogue.photo_present[0]


def test_one_name_in_two_folders_is_ambiguous_and_a_path_tells_them_apart(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "images", SHADES | {"a/x.png": 30, "b/x.png": 60})
    rows: list[list[object]] = [["x", "Shirts", "Which one"], ["b/x", "Shirts", "That one"], *ROWS]
    catalogue = load(table_config(write_csv(tmp_path / "items.csv", rows), photos), tmp_path)
    assert catalogue.report.counts_by_reason() == {"ambiguous_photo": 1}
    assert catalogue.photos[1, 4, 3, 0] == 60


def test_no_photo_found_at_all_is_an_error_that_shows_both_sides(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "images", {"sku_1.png": 9})
    with pytest.raises(CatalogueError, match=r"looks for '1'.*'sku_1.png'"):
        load(table_config(write_csv(tmp_path / "items.csv", ROWS), photos), tmp_path)


def test_missing_photo_source_is_an_error_unless_it_is_optional(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "images", SHADES)
    table = write_csv(tmp_path / "items.csv", ROWS)
    extra = tmp_path / "more.zip"
    with pytest.raises(CatalogueError, match=r"more\.zip"):
        load(table_config(table, photos, extra_photos=(PhotoSource(extra),)), tmp_path)
    catalogue = load(table_config(table, photos, extra_photos=(PhotoSource(extra, optional=True),)), tmp_path)
    assert any("more.zip" in note for note in catalogue.report.notes)


def test_a_folder_stands_in_for_the_zip_of_its_name(tmp_path: Path) -> None:
    write_photos(tmp_path / "images", SHADES)
    catalogue = load(table_config(write_csv(tmp_path / "items.csv", ROWS), tmp_path / "images.zip"), tmp_path)
    assert catalogue.photo_present.all()


def test_extra_photos_belong_to_training_rows_and_lose_their_squash(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "images", SHADES)
    # Squashed to a square: the left half black, the right half white, of a photo once 3 wide and 4 high.
    square = np.zeros((40, 40, 3), np.uint8)
    square[:, 20:] = 255
    (tmp_path / "big").mkdir()
    for i in range(1, 21):
        Image.fromarray(square).save(tmp_path / "big" / f"{i}.png")
    (tmp_path / "big" / "1.png").write_bytes(b"junk")
    splits = ["train"] * 14 + ["val"] * 3 + ["test"] * 3
    rows: list[list[object]] = [[*row, split] for row, split in zip(ROWS, splits, strict=True)]
    table = write_csv(tmp_path / "items.csv", rows, header=["id", "category", "title", "split"])
    config = table_config(table, photos, split_column="split", extra_photos=(PhotoSource(tmp_path / "big", aspect_ratio=0.75),))
    catalogue = load(config, tmp_path)
    assert catalogue.extra_rows.tolist() == list(range(1, 14))
    assert catalogue.report.counts_by_reason() == {"unreadable_extra_photo": 1}
    # 3:4 fills 6x8 without padding: black at the left edge, white at the right, in every line.
    assert (catalogue.extra_photos[:, :, 0] < 40).all()
    assert (catalogue.extra_photos[:, :, 5] > 215).all()


def test_unknown_column_names_the_purpose_and_the_nearest(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "items.csv", ROWS)
    with pytest.raises(CatalogueError, match=r"'categories' \(a label column\).*Did you mean 'category'"):
        load(table_config(table, label_columns=("categories",)), tmp_path)


def test_titles_alone_make_a_catalogue_without_an_image_branch(tmp_path: Path) -> None:
    catalogue = load(table_config(write_csv(tmp_path / "items.csv", ROWS)), tmp_path)
    assert (catalogue.config.network.image_height, catalogue.photos.shape) == (0, (20, 8, 6, 3))
    assert not catalogue.photo_present.any()
    assert catalogue.report.counts_by_reason() == {}


def test_photos_alone_make_a_catalogue_without_a_text_branch(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "images", SHADES)
    config = table_config(write_csv(tmp_path / "items.csv", ROWS), photos, text_column=None)
    catalogue = load(config, tmp_path)
    assert catalogue.config.network.max_tokens == 0
    assert catalogue.config.network.image_height == 8
    assert set(catalogue.titles) == {""}


def test_the_config_that_comes_back_lacks_absent_optional_columns(tmp_path: Path) -> None:
    config = table_config(
        write_csv(tmp_path / "items.csv", ROWS),
        label_columns=("category", "colour"),
        auxiliary_columns=("brand",),
        hierarchy=("colour", "category"),
        optional_columns=("colour", "brand", "split"),
        split_column="split",
    )
    catalogue = load(config, tmp_path)
    found = catalogue.config.catalogue
    assert (found.label_columns, found.auxiliary_columns, found.hierarchy) == (("category",), (), ())
    assert list(catalogue.labels) == ["category"]


def test_limit_takes_rows_from_the_whole_table(tmp_path: Path) -> None:
    catalogue = load(table_config(write_csv(tmp_path / "items.csv", ROWS)), tmp_path, limit=4)
    assert catalogue.row_ids == ["1", "6", "11", "16"]


def test_kaggles_own_layout_trains_from_the_fashion_preset(tmp_path: Path) -> None:
    header = "id,gender,masterCategory,subCategory,articleType,baseColour,season,year,usage,productDisplayName"
    lines = [f"{i},Men,Apparel,Topwear,{('Shirts', 'Tshirts')[i % 2]},Blue,Fall,2011,Casual,Shirt {i}" for i in range(1, 40)]
    lines[0] += ", with a comma"
    (tmp_path / "styles.csv").write_text("\n".join([header, *lines]))
    write_photos(tmp_path / "images", {f"{i}.jpg": 5 * i for i in range(1, 40)})
    catalogue = load(load_preset("fashion", tmp_path), tmp_path)
    assert catalogue.report.counts_by_reason() == {"repaired": 1}
    assert catalogue.titles[0] == "Shirt 1, with a comma"
    assert catalogue.photo_present.all()
    assert catalogue.config.catalogue.label_columns == (
        "articleType", "subCategory", "masterCategory", "gender", "baseColour", "season", "usage",
    )  # fmt: skip
    assert set(catalogue.split) == {"train", "val", "test"}


@pytest.mark.parametrize("pattern", ["images/1.jpg", "images/{}.jpg", "images/{id"])
def test_a_pattern_without_a_column_is_explained(tmp_path: Path, pattern: str) -> None:
    photos = write_photos(tmp_path / "images", SHADES)
    config = table_config(write_csv(tmp_path / "items.csv", ROWS), photos, image_column=None, image_pattern=pattern)
    with pytest.raises(CatalogueError, match="image pattern"):
        load(config, tmp_path)


def test_network_without_an_image_branch_reads_no_photos(tmp_path: Path) -> None:
    network = NetworkConfig(image_height=0, image_width=0)
    config = table_config(write_csv(tmp_path / "items.csv", ROWS), tmp_path / "nowhere", network=network)
    assert load(config, tmp_path).photos.shape == (20, 0, 0, 3)
