"""Recordings on the disk: ids that are safe as names, whole or not there, and folders that backends read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from app import custom_voices
from app.custom_voices import RATE, StoreFull, consent_store, voice_store
from backends.csm.voices import Voices as CsmVoices
from backends.interface import InvalidInput
from backends.llasa.voices import Clip, Voices

TONE = (0.3 * np.sin(np.arange(2 * RATE) * 0.1)).astype(np.float32)


def llasa(models: Path) -> Voices:
    return Voices(models / "voices", (), lambda samples: [1], "codec", longest=15, prefixes={}, double_bos=())


def test_a_voice_is_kept_found_renamed_and_removed(tmp_path: Path) -> None:
    store = voice_store(tmp_path)
    assert store.all() == []
    first = store.add("Anna", TONE, transcript="Guten Tag.", consent="cons_1")
    assert store.is_id(first.id)
    assert voice_store(tmp_path).get(first.id) == first
    renamed = store.rename(first.id, "Anne")
    assert renamed is not None
    assert store.all() == [renamed]
    assert (renamed.name, renamed.consent, renamed.created_at) == ("Anne", "cons_1", first.created_at)
    assert store.remove(first.id)
    assert not store.remove(first.id)
    assert store.rename(first.id, "x") is None
    assert list((tmp_path / "voices").iterdir()) == []


@pytest.mark.parametrize(
    "identity", ["", "voice_", "voice_../..", "..", "voice_" + "A" * 32, "cons_" + "0" * 32, "Anna"]
)
def test_what_is_no_id_never_becomes_a_path(tmp_path: Path, identity: str) -> None:
    (tmp_path / "voices" / "Anna").mkdir(parents=True)
    (tmp_path / "voices" / "Anna" / "recording.json").write_bytes(b'{"id": "Anna", "name": "a", "created_at": 1}')
    store = voice_store(tmp_path)
    assert store.get(identity) is None
    assert not store.remove(identity)
    assert store.all() == []


def test_a_file_that_is_no_record_hides_its_recording_alone(tmp_path: Path) -> None:
    store = consent_store(tmp_path)
    kept, broken = store.add("a", TONE, language="en"), store.add("b", TONE, language="en")
    (tmp_path / "voice_consents" / broken.id / "recording.json").write_bytes(b"{")
    assert store.all() == [kept]


def test_there_is_an_end_to_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(custom_voices, "MOST_RECORDINGS", 1)
    store = voice_store(tmp_path)
    store.add("a", TONE, transcript="a")
    with pytest.raises(StoreFull):
        store.add("b", TONE, transcript="b")


def test_nothing_is_left_of_a_voice_that_could_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(custom_voices, "_replace", full)
    with pytest.raises(OSError, match="space"):
        voice_store(tmp_path).add("a", TONE, transcript="a")
    assert list((tmp_path / "voices").iterdir()) == []


def test_llasa_speaks_with_it_at_once_and_no_longer_once_it_is_removed(tmp_path: Path) -> None:
    backend, store = llasa(tmp_path), voice_store(tmp_path)
    made = store.add("Anna", TONE, transcript="Guten Tag, Ü.")
    voice = backend.voice(made.id)
    assert isinstance(voice.clip, Clip)
    assert (voice.clip.text, len(voice.clip.samples)) == ("Guten Tag, Ü.", 32_000)
    assert np.abs(voice.clip.samples).max() == pytest.approx(0.3, abs=0.01)
    backend.encoded(voice)
    store.remove(made.id)
    with pytest.raises(InvalidInput, match="no voice"):
        backend.voice(made.id)


def test_csm_finds_it_too(tmp_path: Path) -> None:
    import torch

    made = voice_store(tmp_path).add("Anna", TONE, transcript="Guten Tag.")
    voice = CsmVoices(tmp_path / "voices", RATE, lambda samples: torch.zeros(32, 3), "codec").voice(made.id)
    assert voice.sample is not None
    assert voice.sample.text == "Guten Tag."
