"""TLS from two PEM files.

Owns the context: TLS 1.2 and 1.3 alone, forward secrecy and authenticated ciphers alone, and what is said of files that do not
fit. Refuses to know connections.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from app.settings import PREFIX, Settings, SettingsError

_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2; those of 1.3 are all fit. RFC 9325, section 4.2."""


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """The context with the certificate loaded, None without one. Raises `SettingsError`."""
    if settings.tls_certificate_file is None and settings.tls_key_file is None:
        return None
    if settings.tls_certificate_file is None:
        raise SettingsError(f"{PREFIX}TLS_KEY_FILE: a key alone is no use; set {PREFIX}TLS_CERTIFICATE_FILE too")
    if settings.tls_key_file is None:
        raise SettingsError(f"{PREFIX}TLS_CERTIFICATE_FILE: a certificate alone is no use; set {PREFIX}TLS_KEY_FILE too")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    load_certificate(context, settings)
    return context


def load_certificate(context: ssl.SSLContext, settings: Settings) -> None:
    """Read both files; connections from now on get them. Raises `SettingsError` and leaves the context as it was."""
    assert settings.tls_certificate_file is not None  # noqa: S101  (a context exists only with both)
    assert settings.tls_key_file is not None  # noqa: S101
    certificate, key = settings.tls_certificate_file, settings.tls_key_file
    _must_be_pem(certificate, "TLS_CERTIFICATE_FILE", b"-----BEGIN CERTIFICATE-----", "a PEM file with a certificate")
    _must_be_pem(key, "TLS_KEY_FILE", b"PRIVATE KEY-----", "a PEM file with a private key")
    # Into a context of their own first: a pair that does not fit would leave half of itself in this one.
    for target in (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), context):
        try:
            target.load_cert_chain(certificate, key, password=_no_passphrase)
        except _EncryptedKeyError:
            raise SettingsError(
                f"{PREFIX}TLS_KEY_FILE: the key has a passphrase, and nobody is there to type it; store it without "
                "(`openssl pkey -in KEY -out NEW`) in a file that only the service may read"
            ) from None
        except ssl.SSLError as error:
            raise SettingsError(_what_is_wrong(error)) from None


class _EncryptedKeyError(Exception):
    pass


def _no_passphrase() -> str:
    raise _EncryptedKeyError


def _must_be_pem(path: Path, name: str, marker: bytes, meant: str) -> None:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SettingsError(
            f"{PREFIX}{name}: the file cannot be read ({(error.strerror or 'no such file').lower()}); name {meant}"
        ) from None
    if marker not in content:
        raise SettingsError(f"{PREFIX}{name}: this is not {meant}")


def _what_is_wrong(error: ssl.SSLError) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"{PREFIX}TLS_KEY_FILE: this is not the key of the certificate in {PREFIX}TLS_CERTIFICATE_FILE"
    return (
        f"{PREFIX}TLS_CERTIFICATE_FILE: the certificate and its key cannot be used ({error.reason or 'damaged file'}); "
        "try `openssl x509 -in CERTIFICATE -noout -text` and `openssl pkey -in KEY -check -noout`"
    )
