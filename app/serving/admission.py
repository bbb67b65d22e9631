"""Lets requests in: the reservations, and which deployment answers where the one that was asked for cannot.

Owns the reservations that were made and not left. Whether a queue has room is up to its dispatcher.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import ExitStack

import structlog

from app.config.deployments import Deployment
from app.errors import ApiError, Draining, ModelUnavailable, OutOfMemory, WorkerLost
from app.metrics import Metrics
from app.serving.dispatch import Dispatcher
from app.serving.notifier import Notifier
from app.serving.reservation import PoolReservation

_log = structlog.get_logger("pool")


class Admission:
    """draining: nobody is let in any more. dispatchers: of all deployments, by name."""

    def __init__(self, dispatchers: Mapping[str, Dispatcher], metrics: Metrics) -> None:
        self._dispatchers, self._metrics = dispatchers, metrics
        self._reservations: set[PoolReservation] = set()
        self._left = Notifier()  # of a reservation that was released
        self.draining = False

    @property
    def count(self) -> int:
        """Reservations that were made and not left."""
        return len(self._reservations)

    async def emptied(self, seconds: float) -> int:
        """Wait until all reservations are left, `seconds` at most. Returns how many are not."""
        clock = asyncio.get_running_loop().time
        end = clock() + seconds
        while self._reservations and await self._left.wait(max(0.0, end - clock())):
            pass
        return len(self._reservations)

    async def reserve(self, asked: Deployment, owner: str, request_id: str, *, live: bool = False) -> PoolReservation:
        """Reserve with the deployment, or the first of its fallbacks that can be loaded. Give it back with `release`.

        A deployment with a fallback is loaded first: only then is it certain who answers. Raises Draining,
        ModelUnavailable, Overloaded or InvalidRequest.
        """
        reservation = self._made(asked, owner, request_id, asked=asked, live=live)
        while True:
            self._reservations.add(reservation)
            with ExitStack() as undo:
                undo.callback(self.release, reservation)
                refused = await _refusal(reservation)
                if refused is None:
                    undo.pop_all()
                    return reservation
            reservation = self._of_fallback(reservation, refused, asked)

    def release(self, reservation: PoolReservation) -> None:
        """Give everything back that it holds."""
        self._reservations.discard(reservation)
        self._left.notify()
        reservation.leave()

    def _of_fallback(self, failed: PoolReservation, why: ApiError, asked: Deployment) -> PoolReservation:
        """Reserve with the fallback of a deployment that did not load. Raises `why` if that one is not there either."""
        try:
            fallback = self._deployment(failed.deployment.fallback)
            return self._made(fallback, failed.owner, failed.request_id, asked=asked, live=failed.live)
        except ModelUnavailable:
            raise why from None

    def _made(
        self, deployment: Deployment, owner: str, request_id: str, *, asked: Deployment, live: bool
    ) -> PoolReservation:
        """asked: what the client named. Raises Draining, ModelUnavailable, Overloaded or InvalidRequest."""
        if self.draining:
            self._metrics.refused_total.labels("draining").inc()
            raise Draining("The server is shutting down.", retry_after=5.0)
        dispatcher = self._who_answers(deployment)
        if not live:
            dispatcher.check(owner)
        fell_back = asked.name if dispatcher.name != asked.name else None
        if fell_back:
            _log.warning("pool.fallback", deployment=fell_back, answered_by=dispatcher.name, request_id=request_id)
        return PoolReservation(dispatcher, owner=owner, request_id=request_id, fallback_from=fell_back, live=live)

    def _who_answers(self, deployment: Deployment) -> Dispatcher:
        """Return the deployment's own dispatcher, or the first of its fallbacks that can run now.

        Raises ModelUnavailable with what the deployment itself lacks, if none can.
        """
        lacking: ModelUnavailable | None = None
        while True:
            dispatcher = self._dispatchers[deployment.name]
            try:
                dispatcher.supervisor.check()
            except ModelUnavailable as error:
                lacking = lacking or error
                if not deployment.fallback:
                    self._metrics.refused_total.labels("unavailable").inc()
                    raise lacking from error
                deployment = self._deployment(deployment.fallback)
            else:
                return dispatcher

    def _deployment(self, name: str) -> Deployment:
        return self._dispatchers[name].supervisor.deployment


async def _refusal(reservation: PoolReservation) -> ApiError | None:
    """Load the model where a fallback may answer instead; why it cannot be loaded, None if it can."""
    if not reservation.deployment.fallback:
        return None
    try:
        await reservation.prepare()
    except (ModelUnavailable, OutOfMemory, WorkerLost) as error:
        return error
    return None
