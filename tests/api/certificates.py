"""Certificates for tests, made by OpenSSL's own program."""

from __future__ import annotations

import subprocess
from pathlib import Path


def make_certificate(
    folder: Path, name: str = "localhost", *, passphrase: str | None = None, host: str = "localhost"
) -> tuple[Path, Path]:
    """A self-signed certificate of `name` for 127.0.0.1 and `host`, and its key."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    protection = ["-noenc"] if passphrase is None else ["-passout", f"pass:{passphrase}"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", *protection]
    names = ["-subj", f"/CN={name}", "-addext", f"subjectAltName=IP:127.0.0.1,DNS:{host}"]
    subprocess.run(
        ["openssl", "req", "-x509", *kind, "-keyout", str(key), "-out", str(certificate), "-days", "2", *names],
        check=True,
        capture_output=True,
    )
    return certificate, key
