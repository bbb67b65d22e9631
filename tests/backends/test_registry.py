"""What the gateway may know of a backend, and refuse for it, before it runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from backends import registry
from backends.interface import (
    ChatRequest,
    InvalidInput,
    Message,
    Request,
    SpeechRequest,
    TextPart,
    TranscriptionRequest,
)
from backends.registry import (
    UnknownOption,
    backend_info,
    backend_names,
    check_options,
    check_request,
    engine_packages,
)


def question(**keys: object) -> ChatRequest:
    return ChatRequest((Message("user", (TextPart("Why?"),)),), **keys)  # type: ignore[arg-type]


def speech(**options: object) -> SpeechRequest:
    return SpeechRequest("Hello.", "0", options=options)


@pytest.mark.parametrize(
    ("backend", "request_", "param"),
    [
        ("diffa", question(options={"steps": 5}), "steps"),
        ("diffa", question(options={"steps": 1_000_000_000}), "steps"),
        ("diffa", question(options={"cache": "some"}), "cache"),
        ("diffa", question(options={"temprature": 1}), "temprature"),
        ("diffa", question(top_p=0.5), "top_p"),
        ("diffa", question(temperature=3.0), "temperature"),
        ("llasa", speech(top_p=0.0), "options.top_p"),
        ("llasa", speech(max_length=100_000), "options.max_length"),
        ("llasa", speech(chaining="yes"), "options.chaining"),
        ("csm", speech(temperature=9), "options"),
        ("csm", speech(speed=1), "options"),
    ],
)
def test_wrong_settings_are_refused_without_a_model(backend: str, request_: Request, param: str) -> None:
    info = backend_info(backend)
    with pytest.raises(InvalidInput) as refused:
        check_request(info, check_options(info, {}), request_)
    assert refused.value.param == param


@pytest.mark.parametrize("value", [10**400, -(10**400), float("nan"), float("inf"), True, "x", [], {}])
@pytest.mark.parametrize(
    ("backend", "option"),
    [
        ("llasa", "temperature"),
        ("llasa", "retries"),
        ("csm", "temperature"),
        ("csm", "top_k"),
        ("diffa", "steps"),
        ("diffa", "factor"),
    ],
)
def test_values_that_are_no_setting_at_all_are_refused_as_such(backend: str, option: str, value: object) -> None:
    info = backend_info(backend)
    asked = question(options={option: value}) if backend == "diffa" else speech(**{option: value})
    with pytest.raises(InvalidInput):
        check_request(info, check_options(info, {}), asked)


def test_backends_are_found_by_their_info_files() -> None:
    packages = {info.entry.split(".")[1] for info in map(backend_info, backend_names())}
    assert packages == set(engine_packages())
    assert {"whisper", "diffa", "llasa", "csm", "espeak", "voices", "fake"} <= set(backend_names())


def test_a_new_package_with_an_info_file_is_a_backend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "whisper").mkdir()
    (tmp_path / "whisper" / "info.py").touch()
    (tmp_path / "audio").mkdir()
    monkeypatch.setattr(registry, "_PACKAGES", tmp_path)
    assert engine_packages() == ("whisper",)


@pytest.mark.parametrize("name", backend_names())
def test_ordinary_requests_pass_with_the_defaults(name: str) -> None:
    info = backend_info(name)
    for request in (question(), speech(), TranscriptionRequest(np.zeros(16_000, np.float32))):
        check_request(info, check_options(info, {}), request)


def test_the_deployments_own_options_count() -> None:
    info = backend_info("llasa")
    check_request(info, check_options(info, {}), speech(max_length=1000))
    with pytest.raises(InvalidInput, match=r"64\.\.500"):
        check_request(info, check_options(info, {"max_length": 500}), speech(max_length=1000))


def test_a_deployment_whose_rules_are_broken_is_no_fault_of_the_request() -> None:
    info = backend_info("diffa")
    check_request(info, check_options(info, {"max_new_tokens": 100, "block_length": 32}), question())


@pytest.mark.parametrize(
    ("backend", "option", "value"),
    [
        ("csm", "temperature", 3),
        ("csm", "max_seconds", 0),
        ("diffa", "block_length", 0),
        ("diffa", "threshold", 1.5),
        ("whisper", "vad_threshold", -0.1),
        ("whisper", "max_batch", 0),
        ("llasa", "top_p", 0),
    ],
)
def test_a_deployments_options_have_ranges(backend: str, option: str, value: float) -> None:
    with pytest.raises(UnknownOption, match=option) as refused:
        check_options(backend_info(backend), {option: value})
    assert refused.value.key == option


def test_no_check_imports_a_tensor_library() -> None:
    code = (
        "import sys\n"
        "from backends.interface import SpeechRequest\n"
        "from backends.registry import backend_info, backend_names, check_options, check_request\n"
        "for info in map(backend_info, backend_names()):\n"
        "    check_request(info, check_options(info, {}), SpeechRequest('a', 'b'))\n"
        "print([m for m in ('torch', 'onnxruntime', 'transformers', 'tokenizers', 'moshi') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]", found.stderr
