"""The Prometheus metrics of one gateway. Names are stable: dashboards and autoscalers rely on them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """One registry per app, so that two apps in one process (tests) do not share counts."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series per counter, which nobody reads
        self.registry = CollectorRegistry()
        counter, gauge, histogram = self._counter, self._gauge, self._histogram
        self.requests_total = counter("gateway_requests_total", "Requests answered", "route", "status")
        self.requests_in_flight = gauge(
            "gateway_requests_in_flight", "Requests being queued, decoded, computed or streamed"
        )
        self.jobs_active = gauge("gateway_jobs_active", "Jobs a worker is computing", "deployment")
        self.queue_depth = gauge("gateway_queue_depth", "Jobs waiting for a worker", "deployment")
        self.live_sessions = gauge("gateway_live_sessions", "Live audio sessions that are open", "deployment")
        self.refused_total = counter("gateway_refused_total", "Requests refused before work began", "reason")
        self.cancelled_total = counter("gateway_cancelled_total", "Requests whose client left before the answer")
        self.damaged_audio_total = counter(
            "gateway_damaged_audio_total", "Uploads of which something could not be read, and whose answer says so"
        )
        self.worker_memory_bytes = gauge("gateway_worker_memory_bytes", "Memory of a deployment's worker", "deployment")
        self.replicas = gauge("gateway_replicas", "Replicas of a deployment that answer, over a cluster", "deployment")
        self.worker_restarts_total = counter(
            "gateway_worker_restarts_total", "Workers replaced after a crash", "deployment"
        )
        self.real_time_factor = gauge("gateway_real_time_factor", "Seconds of work per second of audio", "deployment")
        self.realtime_sessions = gauge("gateway_realtime_sessions", "Realtime sessions that are open or being opened")
        self.first_audio_seconds = histogram("gateway_first_audio_seconds", "Request to first audio byte")
        self.stage_seconds = histogram("gateway_stage_seconds", "Time by stage", "stage")

    def render(self) -> bytes:
        """The text exposition format, UTF-8."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(name, text, labels, buckets=_SECONDS, registry=self.registry)
