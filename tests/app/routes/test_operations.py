"""Raw paths to operations, under every scheme and its lenient forms."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.routes.operations import Scheme
from app.routes.table import build_table

TABLE = build_table()
ASR = "audio/transcriptions"


@pytest.mark.parametrize(
    ("path", "scheme", "operation", "deployment"),
    [
        (f"/openai/deployments/whisper-1/{ASR}", Scheme.AZURE, ASR, "whisper-1"),
        (f"//openai/deployments/whisper-1/{ASR}", Scheme.AZURE, ASR, "whisper-1"),
        (f"/openai/deployments/whisper-1/{ASR}/", Scheme.AZURE, ASR, "whisper-1"),
        (f"/openai/deployments/gpt%2Fx%20y/{ASR}", Scheme.AZURE, ASR, "gpt/x y"),
        (f"/openai/deployments/team/asr/{ASR}", Scheme.AZURE, ASR, "team/asr"),
        (f"/openai/deployments/{quote('日本')}/{ASR}", Scheme.AZURE, ASR, "日本"),
        ("/openai/deployments/d/models", Scheme.AZURE, "models", "d"),
        (f"/openai/v1/{ASR}", Scheme.AZURE_V1, ASR, None),
        (f"/openai/v1/deployments/m/{ASR}", Scheme.AZURE_V1, ASR, "m"),
        (f"/v1/{ASR}", Scheme.OPENAI, ASR, None),
        (f"/v1/{ASR}/", Scheme.OPENAI, ASR, None),
        ("/v1//audio///transcriptions", Scheme.OPENAI, ASR, None),
        (f"/openai/deployments/whisper-1//{ASR}", Scheme.AZURE, ASR, "whisper-1"),
        ("/openai/models", Scheme.RESOURCE, "models", None),
        ("/openai/deployments", Scheme.RESOURCE, "deployments", None),
        ("/health/live", Scheme.LOCAL, "health/live", None),
        ("/", Scheme.LOCAL, "", None),
    ],
)
def test_paths_that_exist(path: str, scheme: Scheme, operation: str, deployment: str | None) -> None:
    match = TABLE.match(path)
    assert match is not None
    assert (match.scheme, match.path, match.deployment) == (scheme, operation, deployment)


@pytest.mark.parametrize(
    ("path", "operation", "parameter"),
    [
        ("/v1/models/team/asr:latest", "models/*", "team/asr:latest"),
        ("/openai/models/team%2Fasr", "models/*", "team/asr"),
        ("/openai/v1/models/a%20b", "models/*", "a b"),
        ("/openai/deployments/team%2Fasr", "deployments/*", "team/asr"),
        ("/admin/load/a/b", "admin/load/*", "a/b"),
    ],
)
def test_paths_that_end_in_a_name(path: str, operation: str, parameter: str) -> None:
    match = TABLE.match(path)
    assert match is not None
    assert (match.path, match.parameter) == (operation, parameter)


@pytest.mark.parametrize(
    "path",
    [
        "/v1",
        "/v2/models",
        "/openai",
        "/openai/audio/transcriptions",
        "/v1/deployments/x/audio/transcriptions",
        "/openai/deployments//audio/transcriptions",
        "/openai/deployments/d/embeddings",
        "/openai/deployments/d/images/generations",
        "/v1/models%2Fx",
        "/openai/v1/deployments",
        "/Health",
        "/../health",
    ],
)
def test_paths_that_do_not_exist(path: str) -> None:
    assert TABLE.match(path) is None


@given(st.text(min_size=1).filter(lambda name: name.strip("/") == name))
def test_any_name_survives_percent_encoding(name: str) -> None:
    match = TABLE.match(f"/openai/deployments/{quote(name, safe='')}/audio/translations")
    assert match is not None
    assert (match.path, match.deployment) == ("audio/translations", name)


@given(st.text())
def test_no_path_makes_it_fail(path: str) -> None:
    TABLE.match(path)


@pytest.mark.parametrize(
    ("path", "near"),
    [
        (f"/{ASR}", f"/v1/{ASR}"),
        (f"/v1/v1/{ASR}", f"/v1/{ASR}"),
        (f"/v1/{ASR}/{ASR}", f"/v1/{ASR}"),
        (f"/api/v1/{ASR}/", f"/v1/{ASR}"),
        (f"/openai/openai/deployments/whisper-1/{ASR}", f"/openai/deployments/whisper-1/{ASR}"),
        (f"/openai/{ASR}", f"/openai/v1/{ASR}"),
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1/health", "/health"),
        ("/v1/responses", ""),
        ("/", ""),
    ],
)
def test_a_near_miss_is_known(path: str, near: str) -> None:
    assert TABLE.nearest(path) == near
    assert not near or TABLE.match(near) is not None
