"""Weights for a machine without a hub: copied once from a folder that the cluster's machines share, and checked.

Knows no Ray. Blocks: call it in a thread.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import structlog

from backends import weights
from backends.model_files import ModelSpec

_log = structlog.get_logger("replica")


def copy_missing(shared: Path, models: Iterable[ModelSpec], models_dir: Path) -> None:
    """Copy what of the models is not complete in `models_dir`. Of the replicas of one machine that start together the
    first copies, and the others find it done.

    shared: a folder laid out as a models_dir. Every byte is compared after it was written, and files whose digests are
    known with those. A model that is not in it is left to whoever else brings it. Raises ModelUnavailable.
    """
    for spec in models:
        source = weights.model_folder(shared, spec.model)
        with weights.locked(models_dir, f"copy of {spec.model}"):
            if not weights.problems(weights.model_folder(models_dir, spec.model), spec):
                continue
            if weights.problems(source, spec):
                _log.warning("replica.not_shared", model=spec.model, folder=str(source))
                continue
            folder = weights.import_folder(source, spec, models_dir)
            _log.info("replica.copied", model=spec.model, folder=str(folder))
