"""`speech-gateway serve`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from app.commands.connection import Config
from app.commands.console import WRONG_USE, fail

if TYPE_CHECKING:
    from app.config.settings import Settings
    from app.main import MakePool


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on; 0 takes a free one.", show_default="8000", min=0, max=65535)
    ] = None,
    config: Config = None,
    offline: Annotated[bool, typer.Option("--offline", help="Never contact a model hub.")] = False,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Use torch.compile in the deployments that offer it.")
    ] = False,
    bf16: Annotated[
        bool, typer.Option("--bf16", help="Compute in bfloat16 in the deployments that need torch.")
    ] = False,
    cluster: Annotated[
        str | None,
        typer.Option(help="Run the models on the Ray cluster at this address; auto: the one of this machine."),
    ] = None,
) -> None:
    """Start the server. An option beats the environment (SPEECH_GATEWAY_*), which beats the configuration file."""
    from app.config.loading import load_settings
    from app.config.settings import ConfigError
    from app.main import run_server

    overrides = {"server__host": host, "server__port": port, "offline": offline or None}
    try:
        settings = load_settings(config, **overrides)
        if compiled or bf16:
            settings = load_settings(config, **overrides, deployments=_faster(settings, compiled, bf16))
        status = run_server(settings, _cluster_pool(settings, cluster) if cluster else None)
    except ConfigError as error:
        fail(str(error), WRONG_USE)
    raise typer.Exit(status or 0)


def _cluster_pool(settings: Settings, address: str) -> MakePool:
    """Join the cluster. Raises ConfigError, also where Ray is not installed."""
    from app.config.settings import ConfigError

    try:
        from app.cluster.driver import connect
    except ModuleNotFoundError as error:
        raise ConfigError(f"--cluster needs Ray ({error}); install it with: make serve EXTRAS=cluster") from error
    return connect(settings, address)


def _faster(settings: Settings, compiled: bool, bf16: bool) -> dict[str, dict[str, object]]:
    """Return the tables of deployments with what --compile and --bf16 set."""
    from app.config.deployments import Deployments

    tables: dict[str, dict[str, object]] = {}
    for name, deployment in Deployments.from_settings(settings).items():
        if compiled and "compile" in deployment.options:
            tables.setdefault(name, {})["compile"] = True
        if bf16 and deployment.info.engines == ("torch",):
            tables.setdefault(name, {})["dtype"] = "bfloat16"
    return tables
