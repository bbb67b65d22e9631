"""What a transcription's form asks for against what the deployment's model can do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.config.deployments import Deployment
from app.errors import InvalidRequest, OperationNotSupported, UnsupportedValue
from app.routes.multipart import Form, UploadedFile
from app.routes.transcriptions.request import check_capabilities, read_form
from backends.interface import Capabilities
from backends.registry import backend_info

WHISPER = Deployment(name="whisper-1", info=backend_info("whisper"))
MULTILINGUAL = Capabilities("onnx", "cpu", "float32", words=True, logprobs=True, translation=True)


def _fields(*texts: tuple[str, str]) -> Form:
    return Form(list(texts), {"file": UploadedFile("f.wav", memoryview(b""))})


def test_a_loaded_english_only_model_refuses_to_translate_and_says_so_before_it_is_asked() -> None:
    form = read_form(_fields(), "translate")
    check_capabilities(form, WHISPER)
    check_capabilities(form, WHISPER, MULTILINGUAL)
    with pytest.raises(OperationNotSupported, match="whisper-1"):
        check_capabilities(form, WHISPER, replace(MULTILINGUAL, translation=False))


@pytest.mark.parametrize(
    ("ability", "texts"),
    [
        ("words", [("response_format", "verbose_json"), ("timestamp_granularities[]", "word")]),
        ("logprobs", [("include[]", "logprobs")]),
    ],
)
def test_what_the_loaded_model_cannot_give_is_refused(ability: str, texts: list[tuple[str, str]]) -> None:
    form = read_form(_fields(*texts), "transcribe")
    check_capabilities(form, WHISPER, MULTILINGUAL)
    with pytest.raises(UnsupportedValue):
        check_capabilities(form, WHISPER, replace(MULTILINGUAL, **{ability: False}))


def test_what_the_backend_cannot_do_is_refused_whatever_a_model_says() -> None:
    form = read_form(_fields(("response_format", "diarized_json")), "transcribe")
    with pytest.raises(InvalidRequest):
        check_capabilities(form, WHISPER, replace(MULTILINGUAL, diarization=True))
