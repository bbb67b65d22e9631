"""The TLS files of a server: this machine's own certificate or the user's files, read again when they change.

Owns which files are served and when they are looked at. How a certificate is made is in `certificates`. Knows no
connection.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from app.config.settings import ConfigError
from app.http.certificates import certificate_files, ensure_certificate, own_names

if TYPE_CHECKING:
    from app.config.settings import ServerSettings


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """certificate: PEM with its chain; key: PEM without a password; automatic: they are this machine's own."""

    certificate: Path
    key: Path
    automatic: bool
    names: tuple[str, ...] = ()

    def renewed(self) -> bool:
        """Make an own certificate anew if it ends soon. Returns whether it was."""
        return self.automatic and ensure_certificate(self.names)

    def changed_at(self) -> tuple[int, int]:
        """Changes when the files do. Raises OSError."""
        return self.certificate.stat().st_mtime_ns, self.key.stat().st_mtime_ns


def tls_files(server: ServerSettings) -> TlsFiles | None:
    """What to serve with; None: plain HTTP. Raises ConfigError for files that cannot be used."""
    if server.tls == "off":
        return None
    if server.tls == "auto":
        names = tuple(own_names(server.host))
        try:
            ensure_certificate(names)
        except OSError as error:
            raise ConfigError(f"no certificate could be made: {error}", ("server", "tls")) from error
        files = certificate_files()
        return TlsFiles(files.certificate, files.key, automatic=True, names=names)
    own = TlsFiles(Path(server.certificate).expanduser(), Path(server.certificate_key).expanduser(), automatic=False)
    _check(own)
    return own


def _check(files: TlsFiles) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files.certificate, files.key, password=_no_password)
    except (OSError, ssl.SSLError, ValueError) as error:
        raise ConfigError(
            f"certificate {files.certificate} with key {files.key} cannot be used: {error}", ("server", "certificate")
        ) from error


def _no_password() -> str:
    """Instead of asking at the terminal for a key that is protected."""
    raise ValueError("the key is protected by a password; give one without")
