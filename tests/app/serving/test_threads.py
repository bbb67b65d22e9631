"""Which workers compute with several threads."""

from __future__ import annotations

from typing import cast

import pytest

from app.config.deployments import Deployment
from app.serving.loading import Requirements, uses_one_thread
from backends.registry import backend_info


class Libraries:
    """What is installed: the neural voices or not."""

    def __init__(self, *, neural: bool) -> None:
        self._neural = neural

    def has_libraries(self, engine: str) -> bool:
        return self._neural or engine != "neural"


@pytest.mark.parametrize(
    ("backend", "engine", "neural", "single"),
    [
        ("voices", "auto", True, False),
        ("voices", "auto", False, True),
        ("voices", "espeak-ng", True, True),
        ("espeak", "auto", True, True),
        ("whisper", "auto", True, False),
    ],
)
def test_the_embedded_voices_take_threads_only_for_neural_models(
    backend: str, engine: str, neural: bool, single: bool
) -> None:
    deployment = Deployment(name="x", info=backend_info(backend), engine=engine)
    assert uses_one_thread(deployment, cast(Requirements, Libraries(neural=neural))) is single
