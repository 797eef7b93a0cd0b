"""The settings in words: what each accepts, and the README's table.

Owns the rendering. Refuses to add a fact: all come from `Settings`.
"""

from __future__ import annotations

from app.settings import PREFIX, Settings


def allowed(name: str) -> str:
    """What a setting accepts, in words."""
    schema = Settings.model_json_schema()["properties"][name]
    choices = schema.get("enum")
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    least = schema.get("minimum", schema.get("exclusiveMinimum"))
    if least is not None:
        open_end = "more than " if "exclusiveMinimum" in schema else ""
        return f"{open_end}{least:,} to {schema['maximum']:,}"
    lists = {"api_keys_sha256": "hex digests, comma-separated", "cors_origins": "origins, comma-separated"}
    lists["image_url_hosts"] = "host names, comma-separated"
    kinds = {"boolean": "`true`, `false`", "array": lists.get(name, "list")}
    return kinds.get(schema.get("type", ""), "path" if name.endswith(("_dir", "_file")) else "text")


def settings_table() -> str:
    """The settings as a Markdown table: variable, default, allowed values, meaning and reason."""
    rows = ["| variable | default | allowed | what it does, and why this default |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True, validated_data={})
        text = str(default).lower() if isinstance(default, bool) else str(default)
        shown = "unset" if default in (None, ()) else f"`{text}`"
        rows.append(f"| `{PREFIX}{name.upper()}` | {shown} | {allowed(name)} | {field.description} |")
    return "\n".join(rows) + "\n"
