"""The calls to replicas over Ray Serve's deployment handles; the one place where Ray's errors are translated.

Jobs go over gRPC, which takes 4 MiB at most; more than a megabyte of samples goes through Ray's object store, in which
a replica on the same machine reads it without a copy.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import ray
import structlog

from app.cluster.board import BOARD
from app.cluster.calls import CallFailed, Report
from app.cluster.wire import Arrays

GRPC_BYTES = 1_000_000
_EXCHANGE_SECONDS = 20.0

_log = structlog.get_logger("cluster")


class RayCalls:
    """The replicas of one Serve deployment. handle: a fresh one; large: another, for calls by reference."""

    def __init__(self, handle: Any, large: Any) -> None:
        for one in (handle, large):
            with contextlib.suppress(RuntimeError):  # is initialised already, where Serve passed it to a replica
                one._init(_prefer_local_routing=False)
        self._handle = handle
        by_value = {"_by_reference": False, "request_serialization": "pickle", "response_serialization": "pickle"}
        self._small = handle.options(method_name="run", stream=True, **by_value)
        self._large = large.options(method_name="run", stream=True, _by_reference=True)
        self._report = handle.options(method_name="report", **by_value)

    async def first(self, seconds: float) -> Report:
        try:
            async with asyncio.timeout(seconds):
                report: Report = await self._report.remote()
        except TimeoutError as error:
            raise CallFailed(f"none answered within {seconds:.0f} s; is there a machine with room for it?") from error
        except Exception as error:
            raise CallFailed(_text(error)) from error
        return report

    async def exchange(self, gateway: str, queued_seconds: float) -> list[Report]:
        try:
            answer = self._handle.broadcast("exchange", gateway, queued_seconds)
            return list(await answer.results_async(timeout_s=_EXCHANGE_SECONDS))
        except Exception as error:
            raise CallFailed(_text(error)) from error

    async def run(self, gateway: str, request_id: str, frame: bytes, arrays: Arrays) -> AsyncIterator[bytes]:
        handle, sent = self._small, list[Any](arrays)
        if sum(array.nbytes for array in arrays) > GRPC_BYTES:
            handle, sent = self._large, await asyncio.to_thread(lambda: [ray.put(array) for array in arrays])
        answer: Any = None
        try:
            answer = handle.remote(gateway, request_id, frame, *sent)
            async for message in answer:
                yield message
        except Exception as error:  # Ray's own, Serve's, and gRPC's, which have nothing in common
            if answer is not None:
                BOARD.fail(answer._request_metadata.internal_request_id)
            raise CallFailed(_text(error)) from error
        finally:
            if answer is not None:
                with contextlib.suppress(Exception):  # it raises again what the router raised
                    answer.cancel()


def _text(error: BaseException) -> str:
    """The last line that says something, without Ray's traceback of the other side."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else 'no text'}"
