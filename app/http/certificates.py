"""A certificate for this machine, signed by an authority of its own that people can trust once.

Owns the folder of the four files, what the certificates say and when they are made anew. The authority may sign names
of this machine and private addresses only, so that its key, stolen, opens no other site. Knows no server.
`cryptography` is loaded when something has to be made or read, not at import.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs
from filelock import FileLock

from app.http.addresses import is_address

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.hashes import SHA256

AUTHORITY_DAYS = 3650
SERVER_DAYS = 397  # what browsers accept of public authorities; private ones may have more, but nobody needs it
RENEW_DAYS = 30  # before its end a certificate is made anew
_CLOCK_SKEW = datetime.timedelta(days=1)
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
# Private, link-local and carrier-grade addresses (RFC 1918, 3927, 4193, 4291, 6598).
_NETWORKS = (
    "127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10", "::1/128",
    "fc00::/7", "fe80::/10",
)  # fmt: skip
_MDNS = "local"  # NAME.local


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """authority: what clients trust; certificate: the server's, with the authority behind it; all PEM."""

    authority: Path
    authority_key: Path
    certificate: Path
    key: Path


def tls_folder() -> Path:
    """Where this machine's files lie: in the user's configuration folder."""
    return Path(platformdirs.user_config_dir("speech-gateway", appauthor=False)) / "tls"


def certificate_files(folder: Path | None = None) -> CertificateFiles:
    folder = folder or tls_folder()
    return CertificateFiles(
        folder / "authority.pem", folder / "authority-key.pem", folder / "server.pem", folder / "server-key.pem"
    )


def ensure_certificate(names: Iterable[str], folder: Path | None = None, now: datetime.datetime | None = None) -> bool:
    """Make what is missing, ends soon or does not hold `names` (host names and addresses). Returns whether it did.

    Raises OSError where the folder cannot be written.
    """
    files, now = certificate_files(folder), now or datetime.datetime.now(datetime.UTC)
    files.key.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    wanted = sorted({*_LOCAL_NAMES, *(name for name in names if _may_be_signed(name))})
    with FileLock(files.key.parent / ".lock"):
        authority = _load_authority(files, wanted, now)
        if authority is not None and _is_good(files, authority[0], wanted, now):
            return False
        certificate, key = authority or _make_authority(files, wanted, now)
        _make_server(files, certificate, key, wanted, now)
        return True


def own_names(host: str) -> list[str]:
    """The names and addresses by which others reach a server that listens on `host`."""
    machine = socket.gethostname()
    names = [machine, f"{machine.partition('.')[0]}.{_MDNS}"]
    if host in ("0.0.0.0", "::", ""):  # noqa: S104 (a comparison)
        return [*names, *_addresses(machine)]
    return [*names, host.strip("[]")]


def fingerprint(certificate: Path) -> str:
    """SHA-256 of a certificate as programs show it. Raises OSError, ValueError."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    digest = x509.load_pem_x509_certificate(certificate.read_bytes()).fingerprint(hashes.SHA256())
    return digest.hex(":").upper()


def _addresses(machine: str) -> list[str]:
    addresses = set[str]()
    with contextlib.suppress(OSError):
        addresses.update(str(entry[4][0]).partition("%")[0] for entry in socket.getaddrinfo(machine, None))
    # The address of the way out; nothing is sent. 192.0.2.1 and 2001:db8::1 are for documentation (RFC 5737, 3849).
    for family, target in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((target, 9))
                addresses.add(str(probe.getsockname()[0]))
        except OSError:
            continue
    return sorted(addresses)


def _may_be_signed(name: str) -> bool:
    """A host name that a certificate can hold, or a private address."""
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return bool(name) and name.isascii() and len(name) <= 253 and all(c.isalnum() or c in "-." for c in name)
    return any(address in ipaddress.ip_network(network) for network in _NETWORKS)


def _load_authority(
    files: CertificateFiles, names: Sequence[str], now: datetime.datetime
) -> tuple[x509.Certificate, EllipticCurvePrivateKey] | None:
    """The authority, if it is whole, outlives a new certificate and may sign `names`."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    try:
        certificate = x509.load_pem_x509_certificate(files.authority.read_bytes())
        key = serialization.load_pem_private_key(files.authority_key.read_bytes(), None)
        permitted = certificate.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees or []
    except (OSError, ValueError, TypeError, x509.ExtensionNotFound):
        return None
    if not isinstance(key, EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        return None
    known = {str(subtree.value) for subtree in permitted if isinstance(subtree, x509.DNSName)}
    outlives = certificate.not_valid_after_utc >= now + datetime.timedelta(days=SERVER_DAYS)
    return (certificate, key) if outlives and known >= _host_names(names) else None


def _is_good(
    files: CertificateFiles, authority: x509.Certificate, names: Sequence[str], now: datetime.datetime
) -> bool:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature

    try:
        certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
        certificate.verify_directly_issued_by(authority)
        held = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        has_key = files.key.stat().st_size > 0
    except (OSError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    lasts = certificate.not_valid_after_utc > now + datetime.timedelta(days=RENEW_DAYS)
    return has_key and lasts and {str(name.value) for name in held} >= set(names)


def _make_authority(
    files: CertificateFiles, names: Sequence[str], now: datetime.datetime
) -> tuple[x509.Certificate, EllipticCurvePrivateKey]:
    from cryptography import x509

    key = _new_key()
    name = _subject(f"Speech gateway of {socket.gethostname()}")
    permitted: list[x509.GeneralName] = [x509.DNSName(host) for host in sorted({*_host_names(names), _MDNS})]
    permitted += [x509.IPAddress(ipaddress.ip_network(network)) for network in _NETWORKS]
    certificate = (
        _builder(name, name, key, now, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .add_extension(x509.NameConstraints(permitted, None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, _sha256())
    )
    _write(files.authority_key, _pem_of_key(key), secret=True)
    _write(files.authority, _pem(certificate))
    return certificate, key


def _make_server(
    files: CertificateFiles,
    authority: x509.Certificate,
    authority_key: EllipticCurvePrivateKey,
    names: Sequence[str],
    now: datetime.datetime,
) -> None:
    from cryptography import x509

    key = _new_key()
    certificate = (
        _builder(_subject("Speech gateway"), authority.subject, key, now, SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, _sha256())
    )
    _write(files.key, _pem_of_key(key), secret=True)
    _write(files.certificate, _pem(certificate) + _pem(authority))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey, now: datetime.datetime, days: int
) -> x509.CertificateBuilder:
    from cryptography import x509

    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _host_names(names: Iterable[str]) -> set[str]:
    """Those of `names` that are no addresses and no names of the local network, which every authority may sign."""
    return {name for name in names if not is_address(name) and not name.endswith(f".{_MDNS}")}


def _general_name(name: str) -> x509.GeneralName:
    from cryptography import x509

    return x509.IPAddress(ipaddress.ip_address(name)) if is_address(name) else x509.DNSName(name)


def _subject(name: str) -> x509.Name:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, name[:64])])


def _new_key() -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _sha256() -> SHA256:
    from cryptography.hazmat.primitives.hashes import SHA256

    return SHA256()


def _pem(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def _pem_of_key(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(file: Path, content: bytes, *, secret: bool = False) -> None:
    """Whole or not at all; a secret for its owner only. On Windows the user's folder keeps others out."""
    new = file.with_suffix(".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600 if secret else 0o644), "wb") as stream:
        stream.write(content)
    new.replace(file)
