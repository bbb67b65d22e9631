"""The sockets that a host name stands for."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest

from app.http.server import _listen

FAMILIES = [(socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1")]


class Sockets:
    """Stands in for the system's: which addresses exist, and what was opened and closed."""

    def __init__(self, missing: dict[str, int]) -> None:
        self.missing, self.opened, self.closed = missing, [], []  # type: ignore[var-annotated]

    def create(self, address: tuple[str, int], **options: Any) -> Sockets:
        if address[0] in self.missing:
            raise OSError(self.missing[address[0]], "no")
        self.opened.append(address)
        return self

    def getsockname(self) -> tuple[str, int]:
        return ("", 4711)

    def close(self) -> None:
        self.closed.append(self.opened[-1])


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(host: str, port: int, **options: Any) -> list[tuple[Any, ...]]:
        return [(family, socket.SOCK_STREAM, 6, "", (address, port)) for family, address in FAMILIES]

    monkeypatch.setattr(socket, "getaddrinfo", found)


@pytest.mark.usefixtures("both")
def test_localhost_is_every_address_of_it_at_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    sockets = Sockets({})
    monkeypatch.setattr(socket, "create_server", sockets.create)
    assert len(_listen("localhost", 0)) == 2
    assert sockets.opened == [("::1", 0), ("127.0.0.1", 4711)]


@pytest.mark.usefixtures("both")
def test_an_address_that_is_not_there_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    sockets = Sockets({"::1": errno.EADDRNOTAVAIL})
    monkeypatch.setattr(socket, "create_server", sockets.create)
    assert len(_listen("localhost", 8000)) == 1
    assert sockets.opened == [("127.0.0.1", 8000)]


@pytest.mark.usefixtures("both")
def test_a_port_that_is_taken_at_one_address_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    sockets = Sockets({"127.0.0.1": errno.EADDRINUSE})
    monkeypatch.setattr(socket, "create_server", sockets.create)
    with pytest.raises(OSError, match="no"):
        _listen("localhost", 8000)
    assert sockets.closed == [("::1", 8000)]


@pytest.mark.usefixtures("both")
def test_no_address_at_all_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "create_server", Sockets(dict.fromkeys(("::1", "127.0.0.1"), 99)).create)
    with pytest.raises(OSError, match="localhost"):
        _listen("localhost", 8000)
