"""What of the configuration goes to a replica, and the name and version of its Serve deployment. Knows no Ray."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app import VERSION
from app.config.deployments import Deployment
from app.config.settings import Settings

_HASHED = 8  # hexadecimal digits that tell two names apart which differ only in what Serve does not allow


def settings_of_replica(settings: Settings, deployment: Deployment) -> dict[str, Any]:
    """The settings of a replica as JSON holds them: the one deployment, and no keys, because Ray keeps them.

    Its limits let everything in: the gateways have refused what is to be refused.
    """
    table = settings.deployments.get(deployment.name)
    own = table.model_dump(mode="json", exclude_unset=True) if table else {}
    own |= {"fallback": "", "audio_deployment": "", "keep_alive": -1, "preload": False}
    if not table:
        own["backend"] = deployment.info.name
    limits = settings.limits.model_dump(mode="json") | {"queue_seconds": 86_400.0, "queue_jobs": 10_000}
    models = settings.cluster.models_dir or str(Path(settings.models_dir).resolve())
    return {
        "deployments": {deployment.name: own},
        "limits": limits,
        "devices": settings.devices.model_dump(mode="json"),
        "log": settings.log.model_dump(mode="json"),
        "models_dir": models,
        "offline": settings.offline,
        "cluster": {"weights_from": settings.cluster.weights_from},
    }


def serve_name(name: str) -> str:
    """A deployment's name in Serve, which allows fewer characters."""
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:_HASHED]}"


def version_of(replica: Mapping[str, Any]) -> str:
    """Replicas are replaced only where this differs: what they are told, or the code that they run."""
    document = json.dumps([VERSION, dict(replica)], sort_keys=True)
    return hashlib.sha256(document.encode()).hexdigest()[:16]
