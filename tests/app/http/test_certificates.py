"""This machine's own certificate: what it says, who may read its keys, when it is made anew."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import sys
from pathlib import Path

import pytest
from cryptography import x509

from app.http import certificates
from app.http.certificates import RENEW_DAYS, SERVER_DAYS, certificate_files, ensure_certificate, fingerprint, own_names

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def names_in(file: Path) -> set[str]:
    certificate = x509.load_pem_x509_certificate(file.read_bytes())
    held = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(name.value) for name in held}


def test_the_certificate_is_for_this_machine_alone(tmp_path: Path) -> None:
    assert ensure_certificate(["desk", "desk.local", "192.168.1.5", "8.8.8.8", "bad name"], tmp_path, NOW)
    files = certificate_files(tmp_path)
    assert names_in(files.certificate) == {"localhost", "127.0.0.1", "::1", "desk", "desk.local", "192.168.1.5"}
    authority = x509.load_pem_x509_certificate(files.authority.read_bytes())
    allowed = authority.extensions.get_extension_for_class(x509.NameConstraints)
    assert allowed.critical
    hosts = {str(tree.value) for tree in allowed.value.permitted_subtrees or () if isinstance(tree, x509.DNSName)}
    assert hosts == {"desk", "local", "localhost"}
    nets = [tree.value for tree in allowed.value.permitted_subtrees or () if isinstance(tree, x509.IPAddress)]
    assert not any(ipaddress.ip_address("8.8.8.8") in net for net in nets)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files.certificate, files.key)


@pytest.mark.skipif(sys.platform == "win32", reason="files have no mode on Windows")
def test_keys_are_for_their_owner_only(tmp_path: Path) -> None:
    ensure_certificate([], tmp_path / "tls", NOW)
    files = certificate_files(tmp_path / "tls")
    assert [file.stat().st_mode & 0o777 for file in (files.key, files.authority_key)] == [0o600, 0o600]
    assert (tmp_path / "tls").stat().st_mode & 0o777 == 0o700


def test_nothing_is_made_twice(tmp_path: Path) -> None:
    assert ensure_certificate(["desk"], tmp_path, NOW)
    before = certificate_files(tmp_path).certificate.read_bytes()
    assert not ensure_certificate(["desk"], tmp_path, NOW + datetime.timedelta(days=SERVER_DAYS - RENEW_DAYS - 1))
    assert not ensure_certificate([], tmp_path, NOW)
    assert certificate_files(tmp_path).certificate.read_bytes() == before


def test_it_is_renewed_before_its_end_by_the_same_authority(tmp_path: Path) -> None:
    ensure_certificate([], tmp_path, NOW)
    files = certificate_files(tmp_path)
    authority, certificate = files.authority.read_bytes(), files.certificate.read_bytes()
    assert ensure_certificate([], tmp_path, NOW + datetime.timedelta(days=SERVER_DAYS - RENEW_DAYS))
    assert files.authority.read_bytes() == authority
    assert files.certificate.read_bytes() != certificate


def test_another_address_keeps_the_authority_and_another_name_does_not(tmp_path: Path) -> None:
    ensure_certificate(["desk"], tmp_path, NOW)
    first = fingerprint(certificate_files(tmp_path).authority)
    assert ensure_certificate(["desk", "10.0.0.7"], tmp_path, NOW)
    assert fingerprint(certificate_files(tmp_path).authority) == first
    assert ensure_certificate(["table"], tmp_path, NOW)
    assert fingerprint(certificate_files(tmp_path).authority) != first


@pytest.mark.parametrize("name", ["authority", "authority_key", "certificate"])
def test_a_damaged_file_is_made_anew(tmp_path: Path, name: str) -> None:
    ensure_certificate([], tmp_path, NOW)
    files = certificate_files(tmp_path)
    getattr(files, name).write_text("broken", encoding="utf-8")
    assert ensure_certificate([], tmp_path, NOW)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files.certificate, files.key)
    assert not ensure_certificate([], tmp_path, NOW)


def test_an_old_authority_is_replaced(tmp_path: Path) -> None:
    ensure_certificate([], tmp_path, NOW)
    first = fingerprint(certificate_files(tmp_path).authority)
    assert ensure_certificate([], tmp_path, NOW + datetime.timedelta(days=certificates.AUTHORITY_DAYS))
    assert fingerprint(certificate_files(tmp_path).authority) != first


def test_the_names_are_those_that_the_server_listens_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates.socket, "gethostname", lambda: "desk.example")
    monkeypatch.setattr(certificates, "_addresses", lambda machine: ["192.168.1.5"])
    assert own_names("0.0.0.0") == ["desk.example", "desk.local", "192.168.1.5"]  # noqa: S104
    assert own_names("[fd00::1]") == ["desk.example", "desk.local", "fd00::1"]
