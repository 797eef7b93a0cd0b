"""Settings: read from the environment, refused with a clear line, documented from one place."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.engine.settings import EngineSettings
from app.settings import PREFIX, Settings, SettingsError, load_settings
from app.settings_reference import settings_table


def test_every_default_works() -> None:
    assert load_settings() == Settings()


def test_values_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PORT": "9000",
        "MODELS_DIR": "/srv/models",
        "RUNTIME": "litert",
        "DEFAULT_VERSION": "3",
        "API_KEYS_SHA256": f"{'A' * 64}, {'b' * 64}",
        "DOCS_ENABLED": "false",
    }.items():
        monkeypatch.setenv(PREFIX + name, value)
    settings = load_settings()
    assert (settings.port, settings.models_dir, settings.docs_enabled) == (9000, Path("/srv/models"), False)
    assert len(settings.api_keys()) == 2
    engine = settings.engine_settings()
    assert (engine.runtime, engine.default_version, engine.models_dir) == ("litert", "3", Path("/srv/models"))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("PORT", "SECRET-VALUE", "0 to 65,535"),
        ("PORT", "70000", "0 to 65,535"),
        ("RUNTIME", "SECRET-VALUE", "`auto`, `tensorflow`, `litert`"),
        ("MAX_BODY_BYTES", "1", "1,024 to 1,073,741,824"),
        ("STALL_TIMEOUT_S", "0", "more than 0 to 3,600"),
        ("API_KEYS_SHA256", "SECRET-VALUE", "64 hex digits"),
        ("DOCS_ENABLED", "SECRET-VALUE", "`true`, `false`"),
        ("DEFAULT_VERSION", "v1", "DEFAULT_VERSION"),
    ],
)
def test_a_bad_value_names_the_variable_and_what_is_allowed_but_not_the_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: str
) -> None:
    monkeypatch.setenv(PREFIX + name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    message = str(caught.value)
    assert message.startswith(f"{PREFIX}{name}: ")
    assert expected in message
    assert "SECRET-VALUE" not in message
    assert "\n" not in message


def test_all_bad_values_are_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PREFIX + "PORT", "x")
    monkeypatch.setenv(PREFIX + "RUNTIME", "x")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("content", [None, "", "# nothing\n", "not a digest\n"])
def test_a_useless_key_file_is_refused_rather_than_opening_the_service(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "keys"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingsError, match="ITEMLENS_API_KEYS_FILE"):
        Settings(api_keys_file=path).api_keys()


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]


def test_every_setting_has_a_description_and_every_number_its_bounds() -> None:
    for name, schema in Settings.model_json_schema()["properties"].items():
        assert len(schema["description"]) > 30, name
        if schema.get("type") in ("integer", "number"):
            assert {"minimum", "exclusiveMinimum"} & schema.keys(), name
            assert "maximum" in schema, name
            assert name.endswith(
                (
                    "_s",
                    "_ms",
                    "_bytes",
                    "_items",
                    "_fetches",
                    "_pixels",
                    "_chars",
                    "_values",
                    "_threads",
                    "_scans",
                    "_headers",
                    "_connections",
                    "_per_key",
                    "_per_model",
                    "workers",
                    "port",
                )
            ), name


def test_the_table_has_a_row_per_setting_with_its_default() -> None:
    table = settings_table()
    rows = [line for line in table.splitlines() if line.startswith(f"| `{PREFIX}")]
    assert len(rows) == len(Settings.model_fields)
    assert "| `ITEMLENS_PORT` | `8000` | 0 to 65,535 |" in table
    assert "| `ITEMLENS_DOCS_ENABLED` | `true` | `true`, `false` |" in table
    assert all(row.count(" | ") == 3 for row in rows)


def test_the_engines_limits_are_these() -> None:
    """Defaults and bounds here and in the engine agree: no allowed value is refused later, and neither text is wrong."""
    properties = Settings.model_json_schema()["properties"]
    names = {field.name for field in fields(EngineSettings)} & set(properties)
    assert {name: getattr(EngineSettings(), name) for name in names} == {name: getattr(Settings(), name) for name in names}
    for name in names:
        for bound, beyond in (("minimum", -1), ("maximum", 1)):
            if bound in properties[name]:
                Settings.model_validate({name: properties[name][bound]}).engine_settings()
                with pytest.raises(ValueError, match=f"{name} must be"):
                    EngineSettings(**{name: properties[name][bound] + beyond})
