"""The rows of /health: what a deployment and a device look like from outside. Changes nothing."""

from __future__ import annotations

from app.serving.dispatch import Dispatcher
from app.serving.interfaces import DeploymentStatus, DeviceStatus
from app.serving.requirements import ModelRequirements
from backends.devices import UNLIMITED, Device


def deployment_status(dispatcher: Dispatcher, requirements: ModelRequirements) -> DeploymentStatus:
    """What runs, or is configured while nothing does."""
    supervisor, d = dispatcher.supervisor, dispatcher.supervisor.deployment
    state, placement = supervisor.health_state, supervisor.placement
    real = supervisor.worker.capabilities if supervisor.worker else None
    detail: dict[str, object] = dict(real.detail) if real else {}
    if requirements.pulling:
        detail["pull"] = {"bytes_done": requirements.done, "bytes_total": requirements.total}
    return DeploymentStatus(
        backend=d.info.name,
        model=d.model,
        engine=real.engine if real else d.engine,
        device=real.device if real else placement.device if placement else d.device,
        dtype=real.dtype if real else d.dtype,
        reason=placement.reason if placement else "",
        state=state,
        error=supervisor.error or (requirements.problem() if state in ("absent", "pulling") else None),
        fallback=d.fallback,
        footprint_bytes=supervisor.memory_bytes,
        jobs_active=dispatcher.active,
        queue_depth=dispatcher.waiting,
        live_sessions=dispatcher.live.count,
        real_time_factor=dispatcher.pricer.real_time_factor,
        last_used=dispatcher.last_used,
        detail=detail,
    )


def device_status(device: Device, used: int, budget: int) -> DeviceStatus:
    """used, budget: bytes."""
    shown = 0 if budget == UNLIMITED else budget
    return DeviceStatus(device.id, device.kind, device.name, device.memory_total, used, shown)
