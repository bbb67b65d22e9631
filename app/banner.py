"""What the server prints when it has started: where it listens, and the state of each deployment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app import VERSION
from app.config.settings import is_loopback

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastapi import FastAPI

    from app.config.deployments import Deployment
    from app.routes.context import Gateway
    from app.serving.interfaces import DeploymentStatus


def banner(app: FastAPI, port: int | None = None) -> str:
    """Write the lines for the terminal. port: the one really listened on, where the configured one is 0."""
    gateway: Gateway = app.state.gateway
    server = gateway.settings.server
    lines = [
        f"Speech gateway {VERSION} at {server.scheme}://{_address(server.host)}:{port or server.port}  "
        "(/docs describes it, /health shows its state, /ui is a page to try it)",
        _keys(len(server.api_keys) + len(server.keys), server.host),
        "",
    ]
    statuses = gateway.pool.status()
    width = max((len(name) for name in statuses), default=0)
    lines += [f"  {name:<{width}}  {_state(gateway.deployments[name], statuses)}" for name in statuses]
    if aliases := gateway.deployments.aliases:
        lines += ["", "  other names:"]
        lines += [f"  {name:<{width}}  {', '.join(others)}" for name, others in _grouped(aliases).items()]
    return "\n".join(lines)


def _grouped(aliases: Mapping[str, str]) -> dict[str, list[str]]:
    """Group aliases by the deployment they stand for."""
    groups: dict[str, list[str]] = {}
    for alias, name in aliases.items():
        groups.setdefault(name, []).append(alias)
    return groups


def _keys(count: int, host: str) -> str:
    if count:
        return f"{count} API key{'s are' if count > 1 else ' is'} configured."
    if is_loopback(host):
        return "No API keys are configured: none is needed, and only programs on this machine can connect."
    return "No API keys are configured: any text is accepted as a key, and OTHER MACHINES CAN CONNECT."


def _state(deployment: Deployment, statuses: Mapping[str, DeploymentStatus]) -> str:
    status = statuses[deployment.name]
    if status.state in ("ready", "busy"):
        return status.state + _where(status)
    if status.state == "unloaded":
        return f"ready{_where(status)}, loads when it is first asked for"
    if status.state in ("pulling", "loading"):
        what = f"{status.state} {deployment.model or deployment.info.name}{_reason(status)}"
        return what + _meanwhile(deployment, statuses)
    return f"{status.state}: {(status.error or 'cannot run now').rstrip('.')}{_hint(deployment, statuses)}."


def _where(status: DeploymentStatus) -> str:
    """Engine, device and number format, as far as they are decided."""
    parts = ((": ", status.engine), (" on ", status.device), (" in ", status.dtype))
    return "".join(mark + value for mark, value in parts if value not in ("", "auto"))


def _hint(deployment: Deployment, statuses: Mapping[str, DeploymentStatus]) -> str:
    """Name the command that brings the weights and the deployment that answers meanwhile, unless the error does."""
    status = statuses[deployment.name]
    error = status.error or ""
    command = f"speech-gateway pull {deployment.name}"
    weights = status.state == "absent" and deployment.model and command not in error
    hint = f"; its weights come with: {command}" if weights else ""
    named = f"{deployment.fallback} works already" in error
    return hint if named else hint + _meanwhile(deployment, statuses)


def _meanwhile(deployment: Deployment, statuses: Mapping[str, DeploymentStatus]) -> str:
    """Name the fallback, if it can answer."""
    fallback = statuses.get(deployment.fallback)
    able = fallback is not None and fallback.state not in ("absent", "pulling")
    return f"; {deployment.fallback} answers meanwhile" if able else ""


def _reason(status: DeploymentStatus) -> str:
    return f" ({status.reason})" if status.reason else ""


def _address(host: str) -> str:
    return f"[{host}]" if ":" in host else host
