"""Custom voices and consents through the client library, and what is refused."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import AzureOpenAI, OpenAI

from app.custom_voices import RecordingStore, voice_store
from backends.interface import SpeechRequest, TranscriptionRequest
from tests.support.audio import wav_of
from tests.support.server import FAKES, Running, fake_settings, running

ADMIN = "the-admin-key"
MISSING = "voice_" + "0" * 32


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Two deployments clone, one of them with its own recogniser."""
    deployments = {
        **FAKES,
        "cloner": {"backend": "llasa", "reference_seconds": 5},
        "other": {"backend": "llasa", "transcription_deployment": "fake-asr"},
    }
    settings = fake_settings(
        deployments=deployments,
        models_dir=tmp_path_factory.mktemp("models"),
        server={"admin_key": ADMIN, "api_keys": [{"name": "user", "key": "user-key"}]},
    )
    with running(settings) as one:
        yield one


def client(server: Running, key: str = ADMIN) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)


def consent(server: Running) -> str:
    with client(server) as one:
        return one.audio.voice_consents.create(name="Anna's", language="de-DE", recording=wav_of(1)).id


def models(server: Running) -> Path:
    return server.gateway.settings.models_dir


def test_from_consent_to_speech_and_away(server: Running) -> None:
    with client(server) as one:
        agreed = one.audio.voice_consents.create(name="Anna's", language="de-DE", recording=wav_of(1))
        assert (agreed.object, agreed.name, agreed.language) == ("audio.voice_consent", "Anna's", "de-DE")
        assert agreed.id.startswith("cons_")
        made = one.audio.voices.create(
            name=" Anna \n B. ",
            audio_sample=("a.wav", wav_of(2)),
            consent=agreed.id,
            extra_body={"reference_text": "Tag."},
        )
        assert (made.object, made.type, made.name) == ("audio.voice", "audio_sample", "Anna B.")
        folder = models(server) / "voices" / made.id
        assert (folder / "transcript.txt").read_text(encoding="utf-8") == "Tag."
        one.audio.speech.create(model="cloner", input="hi", voice={"id": made.id}, response_format="wav").read()
        request = server.pool.requests[-1]
        assert isinstance(request, SpeechRequest)
        assert request.voice == made.id
        gone = one.audio.voices.delete(made.id)
        assert (gone.id, gone.object, gone.deleted) == (made.id, "audio.voice.deleted", True)
        assert not folder.exists()
        with pytest.raises(openai.NotFoundError):
            one.audio.voices.delete(made.id)
        with pytest.raises(openai.BadRequestError) as told:
            one.audio.speech.create(model="cloner", input="hi", voice={"id": made.id})
        assert told.value.param == "voice"


def test_consents_are_listed_in_pages_retrieved_renamed_and_deleted(server: Running) -> None:
    made = {consent(server) for _ in range(3)}
    with client(server) as one:
        assert made <= {each.id for each in one.audio.voice_consents.list(limit=1)}
        first = one.audio.voice_consents.list(limit=1)
        assert len(first.data) == 1
        assert first.has_more
        identity = made.pop()
        assert one.audio.voice_consents.update(identity, name="New").name == "New"
        assert one.audio.voice_consents.retrieve(identity).name == "New"
        gone = one.audio.voice_consents.delete(identity)
        assert (gone.object, gone.deleted) == ("audio.voice_consent", True)
        with pytest.raises(openai.NotFoundError):
            one.audio.voice_consents.retrieve(identity)
        with pytest.raises(openai.BadRequestError) as told:
            one.audio.voice_consents.list(after=identity)
        assert told.value.param == "after"


def test_azure_addresses_and_single_voices(server: Running) -> None:
    azure = AzureOpenAI(azure_endpoint=server.url, api_key=ADMIN, api_version="2024-10-21", max_retries=0)
    with azure, httpx.Client(base_url=server.url, headers={"api-key": ADMIN}) as plain:
        made = azure.audio.voices.create(name="A", audio_sample=wav_of(1), consent=consent(server))
        path = f"/v1/audio/voices/{made.id}"
        assert plain.get(path).json() == made.model_dump(exclude_none=True)
        assert plain.post(path, json={"name": "B"}).json()["name"] == "B"
        listing = plain.get("/v1/audio/voices?limit=100").json()
        assert {"id": made.id, "name": "B"} in listing["voices"]
        assert made.id in [voice["id"] for voice in listing["data"]]
        assert (listing["object"], listing["has_more"]) == ("list", False)
        fakes = plain.get("/v1/audio/voices?model=fake-tts").json()["voices"]
        assert made.id not in [voice["id"] for voice in fakes]


def test_a_clip_without_its_text_is_transcribed(server: Running) -> None:
    with client(server) as one:
        raw = one.audio.voices.with_raw_response.create(
            name="A", audio_sample=wav_of(1), consent=consent(server), extra_body={"model": "other"}
        )
    assert isinstance(server.pool.requests[-1], TranscriptionRequest)
    written = models(server) / "voices" / raw.parse().id / "transcript.txt"
    assert written.read_text(encoding="utf-8") == "Good morning to you."
    assert "fake-asr" in raw.headers["x-gateway-note"]


def test_a_clip_that_only_some_deployments_take_is_remarked_on(server: Running) -> None:
    with client(server) as one:
        extra = {"model": "other", "reference_text": "Tag."}
        raw = one.audio.voices.with_raw_response.create(
            name="A", audio_sample=wav_of(7), consent=consent(server), extra_body=extra
        )
    assert "too long for cloner, which clones from at most 5 s" in raw.headers["x-gateway-note"]
    assert "other" not in raw.headers["x-gateway-note"]


@pytest.mark.parametrize(
    ("changed", "param"),
    [
        ({"name": " "}, "name"),
        ({"name": "x" * 257}, "name"),
        ({"consent": "cons_nobody"}, "consent"),
        ({"consent": "../../x"}, "consent"),
        ({"audio_sample": b"no audio"}, "audio_sample"),
        ({"audio_sample": wav_of(0.2)}, "audio_sample"),
        ({"audio_sample": wav_of(6)}, "audio_sample"),
        ({"extra_body": {"model": "fake-tts"}}, "model"),
        ({"extra_body": {"type": "prompt"}}, "type"),
    ],
)
def test_voices_that_cannot_be_made(server: Running, changed: dict[str, Any], param: str) -> None:
    before = voice_store(models(server)).all()
    fields: dict[str, Any] = {"name": "A", "audio_sample": wav_of(1), "consent": consent(server), **changed}
    with client(server) as one, pytest.raises(openai.BadRequestError) as told:
        one.audio.voices.create(**fields)
    assert told.value.param == param
    assert voice_store(models(server)).all() == before


@pytest.mark.parametrize(
    ("missing", "param"), [("name", "name"), ("consent", "consent"), ("audio_sample", "audio_sample")]
)
def test_fields_of_a_voice_that_are_missing(server: Running, missing: str, param: str) -> None:
    data = {"name": "A", "consent": consent(server)}
    data.pop(missing, None)
    files = {"other" if missing == "audio_sample" else "audio_sample": wav_of(1)}
    answer = httpx.post(f"{server.url}/v1/audio/voices", data=data, files=files, headers={"api-key": ADMIN})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("language", ["", "german!", "x" * 40])
def test_a_consent_names_its_language(server: Running, language: str) -> None:
    with client(server) as one, pytest.raises(openai.BadRequestError) as told:
        one.audio.voice_consents.create(name="A", language=language, recording=wav_of(1))
    assert told.value.param == "language"


def test_recordings_over_ten_mebibytes_are_refused_before_they_are_decoded(server: Running) -> None:
    with client(server) as one, pytest.raises(openai.APIStatusError) as told:
        one.audio.voice_consents.create(name="A", language="en", recording=b"\0" * (10 * 1024 * 1024 + 1))
    assert (told.value.status_code, told.value.param) == (413, "recording")


def test_what_writes_needs_the_admin_key_and_reading_any_key(server: Running) -> None:
    with client(server) as one:
        made = one.audio.voices.create(name="A", audio_sample=wav_of(1), consent=consent(server))
    with client(server, "user-key") as one:
        with pytest.raises(openai.PermissionDeniedError):
            one.audio.voice_consents.create(name="A", language="en", recording=wav_of(1))
        with pytest.raises(openai.PermissionDeniedError):
            one.audio.voices.delete(made.id)
        with pytest.raises(openai.BadRequestError) as told:
            one.audio.speech.create(model="fake-tts", input="hi", voice={"id": made.id})
        assert (told.value.param, told.value.code) == ("voice", "unsupported_value")
    url = f"{server.url}/v1/audio/voices/{made.id}"
    assert httpx.get(url, headers={"api-key": "user-key"}).status_code == 200


def test_a_full_disk_is_told(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RecordingStore, "add", full)
    with client(server) as one, pytest.raises(openai.InternalServerError) as told:
        one.audio.voice_consents.create(name="A", language="en", recording=wav_of(1))
    assert (told.value.status_code, told.value.code) == (507, "insufficient_storage")


def test_a_server_without_cloning_says_so(tmp_path: Path) -> None:
    speaks = {"backend": "fake", "task": "speech"}
    settings = fake_settings(models_dir=tmp_path, deployments={**FAKES, "csm-1b": speaks, "llasa-1b": speaks})
    with running(settings) as bare, client(bare) as one:
        for make in (
            lambda: one.audio.voices.create(name="A", audio_sample=wav_of(1), consent="cons_1"),
            lambda: one.audio.voice_consents.create(name="A", language="en", recording=wav_of(1)),
        ):
            with pytest.raises(openai.BadRequestError) as told:
                make()
            assert told.value.code == "OperationNotSupported"
    assert list(tmp_path.iterdir()) == []
