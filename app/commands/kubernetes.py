"""`speech-gateway kubernetes`: the configuration as a RayService."""

from __future__ import annotations

from typing import Annotated

import typer

from app.commands.connection import Config
from app.commands.console import WRONG_USE, fail, output


def kubernetes(
    image: Annotated[str, typer.Argument(help="Container image that has this project with the extra `cluster`.")],
    config: Config = None,
) -> None:
    """Print the configuration as a RayService for Kubernetes."""
    from app.cluster.kubernetes import as_yaml, ray_service
    from app.config.loading import load_settings
    from app.config.settings import ConfigError

    try:
        text = as_yaml(ray_service(load_settings(config), image))
    except ConfigError as error:
        fail(str(error), WRONG_USE)
    except ModuleNotFoundError as error:
        fail(f"this needs the extra `cluster` ({error}); install it with: make setup EXTRAS=cluster", WRONG_USE)
    output().print(text, end="", markup=False, highlight=False, soft_wrap=True)
