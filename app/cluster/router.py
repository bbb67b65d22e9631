"""Which replica gets a job: one with a free slot, and the fastest of those, as Ray Serve's request router.

Serve pickles this module by value: what routers share lies in `app.cluster.board`.
"""

from __future__ import annotations

from typing import Any

from ray.serve.request_router import RequestRouter

from app.cluster import board


class PredictedWait(RequestRouter):  # type: ignore[misc]  # Ray is not typed for us
    """Ranks replicas by what they report, and by what this process has sent them since."""

    async def choose_replicas(self, candidate_replicas: list[Any], pending_request: Any = None) -> list[list[Any]]:
        known = [factor for one in candidate_replicas if (factor := (one.routing_stats or {}).get("factor"))]
        best = min(known, default=1.0)  # one that has not worked yet is taken for as fast as the fastest
        ranked = sorted(candidate_replicas, key=lambda one: self._rank(one, best))
        if ranked and pending_request is not None:
            board.BOARD.choose(pending_request.metadata.internal_request_id, _name(ranked[0].replica_id))
        return [[replica] for replica in ranked]

    @staticmethod
    def _rank(replica: Any, unknown: float) -> tuple[bool, bool, float]:
        stats = replica.routing_stats or {}
        name = _name(replica.replica_id)
        running = max(board.BOARD.under_way(name), int(stats.get("running", 0)))
        factor, suspect = stats.get("factor") or unknown, board.BOARD.is_suspect(name)
        return board.rank(running, int(stats.get("slots", 1)), factor, suspect=suspect)

    def on_request_routed(self, pending_request: Any, replica_id: Any, result: Any) -> None:
        board.BOARD.send(pending_request.metadata.internal_request_id, _name(replica_id))

    def on_request_completed(self, replica_id: Any, internal_request_id: str) -> None:
        board.BOARD.end(internal_request_id)


def _name(replica_id: Any) -> str:
    return str(replica_id.unique_id)
