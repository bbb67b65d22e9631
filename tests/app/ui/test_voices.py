"""Which voices the page offers for a deployment: LoRA adapters are told from the others, before and after loading."""

from __future__ import annotations

from typing import Any

import pytest

from app.config.deployments import Deployments
from app.config.settings import Settings
from app.ui.client import CallFailed
from app.ui.handlers import Handlers

pytest.importorskip("gradio")


class Listing:
    """The API's list of voices; None: the call is refused."""

    def __init__(self, voices: list[str] | None) -> None:
        self._voices = voices

    async def voices(self, key: str, deployment: str) -> list[str]:
        if self._voices is None:
            raise CallFailed("a key is needed")
        return self._voices


async def offered(
    voices: list[str] | None, chosen: str | None = None, **table: Any
) -> tuple[list[tuple[str, str]], str | None]:
    settings = Settings.model_validate({"deployments": {"d": {"backend": "llasa", **table}}})
    handlers = Handlers(Listing(voices), Deployments.from_settings(settings), None, None)  # type: ignore[arg-type]
    voice, cloning = await handlers.voices("", "d", chosen)
    assert cloning.visible, "LLASA clones"
    return [tuple(choice) for choice in voice.choices], voice.value


async def test_adapters_are_offered_before_the_model_is_loaded() -> None:
    choices, _ = await offered(["alloy", "ash"], adapters={"mine": "a"})
    assert choices == [("mine (LoRA adapter)", "mine"), ("alloy", "alloy"), ("ash", "ash")]


async def test_every_checkpoint_of_an_adapter_is_called_one() -> None:
    known = ["alloy", "default", "mine", "mine-checkpoint-5", "minerva"]
    choices, _ = await offered(known, adapters={"mine": "a"})
    assert choices[:2] == [("mine (LoRA adapter)", "mine"), ("mine-checkpoint-5 (LoRA adapter)", "mine-checkpoint-5")]
    assert choices[2:] == [("alloy", "alloy"), ("default", "default"), ("minerva", "minerva")]


async def test_a_choice_outlasts_the_list_as_long_as_it_is_in_it() -> None:
    assert (await offered(["alloy", "ash"], "ash", adapters={"mine": "a"}))[1] == "ash"
    assert (await offered(["alloy", "ash"], "gone", adapters={}))[1] == "alloy"


async def test_without_a_key_the_adapters_are_still_offered() -> None:
    assert (await offered(None, adapters={"mine": "a"}))[0] == [("mine (LoRA adapter)", "mine")]
    assert await offered(None) == ([], None)
