"""Everything an operator may choose, read once from environment variables `ITEMLENS_*`.

Owns names, units, bounds, defaults and the reason for each default; the README's table and `python -m app --help` are
rendered from here. What concerns connections and keys stands in `app.edge_settings`, photos by address in
`app.fetch.settings`. Refuses to be read anywhere but at start-up: the app is handed a frozen `Settings`.
"""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import SettingsConfigDict

from app.api_keys import ApiKeys, KeyFileError
from app.edge_settings import EdgeSettings
from app.fetch.settings import FetchSettings

if TYPE_CHECKING:
    from app.engine.settings import EngineSettings

PREFIX = "ITEMLENS_"
MAX_AUTOMATIC_WORKERS = 4
"""More cores than this go to the threads of each worker, so that memory does not grow with the machine unasked."""
MIB = 1024 * 1024


class SettingsError(Exception):
    """The environment holds a value that is not allowed; the message names the variable and what is allowed."""


class Settings(FetchSettings, EdgeSettings):
    """The service's settings. Values are never echoed in errors: one of them may be a secret."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", hide_input_in_errors=True)

    # --- Models ---
    models_dir: Path = Field(
        Path("models"), description="Folder with the bundles, `<name>/<version>/`. The repository's own, from its root."
    )
    runtime: Literal["auto", "tensorflow", "litert"] = Field(
        "auto",
        description="What runs the network. `auto` takes the fastest that is installed and that the bundle carries.",
    )
    default_model: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        description="Model for requests that name none. Unset: `fashion` if present, else the first by name.",
    )
    default_version: str | None = Field(
        None,
        pattern=r"^[1-9][0-9]{0,8}$",
        description="Pins the default model to one version; the service does not start without it. Unset: the newest "
        "that passes its checks.",
    )
    max_versions_per_model: int = Field(
        2,
        ge=1,
        le=16,
        description="Versions of one model in memory: the default and the newest others, for requests that name a `version` or "
        "a `space`. 2: an index built with the version before is served until it is rebuilt, and a roll-back loads "
        "nothing. Each costs some 20 MB a worker.",
    )
    models_poll_s: float = Field(
        10.0,
        ge=0,
        le=86_400,
        description="Seconds between two looks at the models folder for versions that came or went; 0 looks only on SIGUSR1. "
        "A look costs a millisecond.",
    )
    workers: int = Field(
        0,
        ge=0,
        le=256,
        description="Processes that serve; 0 means one per core that the service may use, four at most. Each holds the models "
        "(200 MB) and has limits of its own; two on two cores answer a third more than one.",
    )
    worker_start_timeout_s: float = Field(
        120.0,
        gt=0,
        le=3600,
        description="Seconds a worker may take to load its models before it is given up: the service does not start, and a "
        "replacement leaves the old worker in place. Shipped models take two or three. A service with one worker has no "
        "parent to give it up, and loads as long as it takes.",
    )
    worker_silence_timeout_s: float = Field(
        30.0,
        ge=2,
        le=3600,
        description="Seconds a worker's event loop may be silent before the worker is killed and replaced. It speaks every "
        "second; nothing it does keeps it for more than one.",
    )
    runtime_threads: int = Field(
        0, ge=0, le=256, description="Threads of one runtime call; 0 means a worker's share of the cores."
    )
    decode_threads: int = Field(
        0, ge=0, le=256, description="Threads that decode photos in one worker; 0 means its share of the cores."
    )
    max_batch_items: int = Field(
        32,
        ge=1,
        le=1024,
        description="Most items in one runtime call. A cap only: the size that pays on this machine is measured at start-up; "
        "none above 32 has, and trying 64 takes 0.2 s of it.",
    )
    max_queue_items: int = Field(
        512,
        ge=1,
        le=65_536,
        description="Most items of one model admitted by a worker and not yet answered; more are refused with 503. Eight "
        "full requests of 64.",
    )
    overload_queue_ms: int = Field(
        40,
        ge=1,
        le=60_000,
        description="Milliseconds of work that may wait for a model while more comes than can be answered; the rest gets 503 "
        "at once, most of it unread. A burst may fill the whole queue. 40: who is let in waits about as long as the slowest "
        "hundredth does at four fifths of the load.",
    )

    # --- Limits of one request ---
    max_body_bytes: int = Field(
        32 * MIB,
        ge=1024,
        le=1024 * MIB,
        description="Largest JSON or multipart body, in bytes. 32 MiB holds 64 ordinary product photos in base64 "
        "several times.",
    )
    max_total_body_bytes: int = Field(
        256 * MIB,
        ge=1024,
        le=1024 * 1024 * MIB,
        description="Most bytes of bodies that one worker holds at once, until they are answered. A request for which there is "
        "no room gets 503, by its Content-Length before it is read; NDJSON waits, and one of its lines may take half. Huge "
        "pages may add 2 MiB to a body above 1 MiB. 256 MiB: eight of the largest bodies, or four thousand photos of 60 kB.",
    )
    max_request_items: int = Field(
        64, ge=1, le=4096, description="Most items in one JSON request. One full batch; send more as NDJSON."
    )
    max_json_values: int = Field(
        100_000,
        ge=100,
        le=10_000_000,
        description="Most commas and brackets in one JSON body. Parsed JSON can take a hundred times its size in "
        "memory; a full request of long titles stays well below.",
    )
    max_image_bytes: int = Field(
        10 * MIB,
        ge=1024,
        le=256 * MIB,
        description="Largest encoded photo, in bytes. 10 MiB holds nearly any camera's JPEG.",
    )
    max_image_pixels: int = Field(
        50_000_000,
        ge=1024,
        le=1_000_000_000,
        description="Most pixels of one photo, checked before decoding. 50 megapixels are 150 MB decoded.",
    )
    max_jpeg_scans: int = Field(
        100, ge=1, le=10_000, description="Most passes of a progressive JPEG. Encoders write ten; thousands are an attack."
    )
    decode_thread_bytes: int = Field(
        64 * MIB,
        ge=MIB,
        le=16 * 1024 * MIB,
        description="Memory, in bytes, that decoding one photo may take in a worker's own thread; what needs more, by its "
        "header, goes to a process of its own. 64 MiB holds any plain JPEG, a PNG of 16 megapixels, a WebP of 3.",
    )
    decode_process_bytes: int = Field(
        1024 * MIB,
        ge=64 * MIB,
        le=64 * 1024 * MIB,
        description="Memory, in bytes, that this process may take, one for each worker. A WebP of 50 megapixels takes 920 MB.",
    )
    decode_timeout_ms: int = Field(
        4000,
        ge=100,
        le=60_000,
        description="Milliseconds of processor time it may take for a photo. A PNG of 50 megapixels takes about 2,200.",
    )
    max_text_chars: int = Field(
        2000, ge=1, le=1_000_000, description="Longest title, in characters. Shop titles stay under 300."
    )
    mask_personal_data: bool = Field(
        True,
        description="Mask e-mail addresses, phone, card, account and IP numbers in titles. Off: where article numbers look so.",
    )
    max_bulk_body_bytes: int = Field(
        4096 * MIB,
        ge=1024,
        le=1024 * 1024 * MIB,
        description="Largest NDJSON body, in bytes; it is streamed, not held. 4 GiB is about 50,000 photos.",
    )
    bulk_window_items: int = Field(
        64,
        ge=1,
        le=4096,
        description="Most items of one NDJSON request in work at once. One full batch keeps the runtime busy without "
        "letting one caller fill the queue.",
    )
    stall_timeout_s: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="Seconds an NDJSON client may neither send nor read before it is closed. Longer than any mobile hand-over.",
    )
    request_timeout_ms: int = Field(
        30_000,
        ge=1,
        le=3_600_000,
        description="Deadline, in milliseconds, of a request that sends no X-Request-Timeout-Ms. Most callers hang up earlier.",
    )
    max_request_timeout_ms: int = Field(
        120_000, ge=1, le=3_600_000, description="Largest X-Request-Timeout-Ms, in milliseconds."
    )

    # --- Logs ---
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info",
        description="Least severe event to log. At `info` there is one event per request, but those refused unread share "
        "one a second; probes show at `debug`.",
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="`auto` writes JSON unless standard output is a terminal."
    )

    @property
    def effective_workers(self) -> int:
        """How many processes serve: as set, or chosen from the cores."""
        from app.engine.settings import usable_cpus

        return self.workers or (min(MAX_AUTOMATIC_WORKERS, usable_cpus()) if hasattr(os, "fork") else 1)

    def engine_settings(self) -> EngineSettings:
        """What the engine needs to know, and nothing of HTTP."""
        from app.engine.settings import EngineSettings, usable_cpus

        share_of_cpus = max(1, usable_cpus() // self.effective_workers)
        values: dict[str, Any] = {limit.name: getattr(self, limit.name) for limit in fields(EngineSettings)}
        values["runtime_threads"] = self.runtime_threads or share_of_cpus
        values["decode_threads"] = self.decode_threads or share_of_cpus
        return EngineSettings(**values)

    def api_keys(self) -> ApiKeys:
        """The allowed keys, the file read; empty means open. Raises `SettingsError`."""
        try:
            keys = ApiKeys(self.api_keys_sha256, self.api_keys_file)
        except KeyFileError as error:
            raise SettingsError(f"{PREFIX}API_KEYS_FILE: {error}") from None
        if self.max_items_per_minute_per_key and not keys:
            # A limit that quietly does nothing would be found out too late.
            raise SettingsError(
                f"{PREFIX}MAX_ITEMS_PER_MINUTE_PER_KEY: there are no keys to count by; set {PREFIX}API_KEYS_SHA256"
            )
        return keys


def load_settings() -> Settings:
    """Read the environment. Raises `SettingsError`, one line per bad variable."""
    try:
        return Settings()
    except ValidationError as error:
        from app.settings_reference import allowed  # which needs the settings themselves

        lines = []
        for failure in error.errors(include_url=False, include_input=False):
            name = str(failure["loc"][0])
            line = f"{PREFIX}{name.upper()}: {failure['msg'].removeprefix('Value error, ')} (allowed: {allowed(name)})"
            if name == "port":
                line += ". A Kubernetes Service named `itemlens` sets it too: use `enableServiceLinks: false`"
            lines.append(line)
        raise SettingsError("\n".join(lines)) from None
