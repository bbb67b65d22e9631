"""`speech-gateway certificate`: this machine's own certificate, and how programs and systems come to trust it."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Annotated

import typer

from app.commands.connection import Config
from app.commands.console import WRONG_USE, fail, messages, output

if TYPE_CHECKING:
    from pathlib import Path

    from app.config.settings import ServerSettings


def certificate(
    path_only: Annotated[bool, typer.Option("--path", help="Print the file to trust, and nothing else.")] = False,
    config: Config = None,
) -> None:
    """Make this machine's own certificate and tell how to trust it.

    The server uses it with tls = "auto" under [server]. One that is there stays.
    """
    from app.http.certificates import certificate_files, ensure_certificate, fingerprint, own_names

    server = _server(config)
    try:
        ensure_certificate(own_names(server.host))
        authority = certificate_files().authority
        digest = fingerprint(authority)
    except (OSError, ValueError) as error:
        fail(f"no certificate could be made: {error}")
    output().print(str(authority), soft_wrap=True)
    if path_only:
        return
    say = messages()
    say.print(f"\nThat is the certificate to trust. Its SHA-256: {digest}", soft_wrap=True)
    say.print("It can vouch for this machine and for private addresses only. On other machines, copy this one file;")
    say.print("the keys beside it stay here.")
    for title, lines in _ways(authority):
        say.print(f"\n{title}:")
        for line in lines:
            say.print(f"  {line}", soft_wrap=True)
    if server.tls != "auto":
        say.print('\nThe server speaks http. For https: tls = "auto" under [server] in gateway.toml, or')
        say.print("the variable SPEECH_GATEWAY_SERVER__TLS=auto.")


def _ways(authority: Path) -> list[tuple[str, list[str]]]:
    """How to trust `authority`, this machine's system first."""
    systems = {
        "Windows": ("Windows (this user)", [f'certutil -user -addstore Root "{authority}"']),
        "Darwin": (
            "macOS",
            [f'security add-trusted-cert -r trustRoot -k ~/Library/Keychains/login.keychain-db "{authority}"'],
        ),
        "Linux": (
            "Linux (Debian, Ubuntu; then Fedora, Arch)",
            [
                f'sudo cp "{authority}" /usr/local/share/ca-certificates/speech-gateway.crt',
                "sudo update-ca-certificates",
                f'sudo trust anchor "{authority}"',
            ],
        ),
    }
    first = platform.system()
    ordered = sorted(systems, key=lambda name: name != first)
    programs = [
        f"Python (openai, httpx; requests):  SSL_CERT_FILE={authority}   REQUESTS_CA_BUNDLE={authority}",
        f"Node:                              NODE_EXTRA_CA_CERTS={authority}",
        f"curl:                              curl --cacert {authority} ...",
        "Firefox:                           Settings, Privacy, View Certificates, Authorities, Import",
        "speech-gateway transcribe, speak:  nothing to do on this machine",
    ]
    return [*(systems[name] for name in ordered), ("Programs with a list of their own", programs)]


def _server(config: Config) -> ServerSettings:
    from app.config.loading import load_settings
    from app.config.settings import ConfigError

    try:
        return load_settings(config).server
    except ConfigError as error:
        fail(str(error), WRONG_USE)
