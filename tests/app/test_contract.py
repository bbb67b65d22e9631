"""Keys, versions, errors, headers and listings of the contract, over HTTP against a running server."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from app.errors import ModelUnavailable, Overloaded
from app.routes.operations import Operation, Scheme
from app.routes.table import OPERATIONS
from tests.support.client import error_document
from tests.support.server import Running, fake_settings, running, skip_over_cluster

KEY = {"api-key": "any"}
A = "/openai/deployments/fake-asr/audio/transcriptions?api-version=2024-10-21"
PREFIX = {
    Scheme.AZURE: "/openai/deployments/fake-asr/",
    Scheme.RESOURCE: "/openai/",
    Scheme.AZURE_V1: "/openai/v1/",
    Scheme.OPENAI: "/v1/",
    Scheme.LOCAL: "/",
}
PUBLIC = {"health", "health/live", "health/ready", "metrics", "openapi.json", "docs", ""}


@pytest.fixture(scope="module")
def keyed() -> Iterator[Running]:
    """A server with a list of keys."""
    with running(fake_settings(server={"api_keys": [{"name": "anna", "key": "secret"}]})) as one:
        yield one


def _every_path() -> list[tuple[Operation, str]]:
    return [
        (operation, PREFIX[scheme] + operation.path.replace("{model}", "fake-asr").replace("{deployment}", "fake-asr"))
        for operation in OPERATIONS
        for scheme in sorted(operation.schemes)
    ]


@pytest.mark.parametrize(("operation", "path"), _every_path(), ids=[f"{o.method} {p}" for o, p in _every_path()])
def test_nothing_but_the_short_public_list_answers_without_a_key(
    keyed: Running, operation: Operation, path: str
) -> None:
    answer = httpx.request(operation.method, keyed.url + path)
    if operation.path in PUBLIC:
        assert answer.status_code == 200
    else:
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        error_document(answer)


def test_open_webui_may_be_let_in_without_a_key() -> None:
    keys = [{"name": "anna", "key": "secret"}]
    with running(fake_settings(server={"open_listings": True, "api_keys": keys})) as server:
        assert httpx.get(f"{server.url}/v1/audio/voices").status_code == 200
        assert httpx.get(f"{server.url}/v1/audio/models").status_code == 200
        assert httpx.get(f"{server.url}/v1/audio/speech/voices?model_id=fake-tts").status_code == 200
        assert httpx.get(f"{server.url}/v1/models").status_code == 200
        assert httpx.get(f"{server.url}/v1/models/fake-asr").status_code == 200
        assert httpx.get(f"{server.url}/openai/deployments?api-version=2024-10-21").status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"api-key": "k"},
        {"API-KEY": "k"},
        {"authorization": "Bearer My API Key"},
        {"authorization": "bearer k"},
        {"ocp-apim-subscription-key": "k"},
        {"api-key": "", "authorization": "Bearer k"},
    ],
)
def test_every_form_of_a_key_is_accepted(server: Running, headers: dict[str, str]) -> None:
    assert httpx.get(f"{server.url}/v1/models", headers=headers).status_code == 200


def test_a_key_in_the_query_is_accepted(server: Running) -> None:
    assert httpx.get(f"{server.url}/v1/models?subscription-key=k").status_code == 200


NO_KEYS = [{"authorization": "Basic k"}, {"authorization": "Bearer"}, {"api-key": ""}, {}]


@pytest.mark.parametrize("headers", NO_KEYS)
def test_no_key_in_disguise(keyed: Running, headers: dict[str, str]) -> None:
    azure = httpx.get(f"{keyed.url}/openai/models?api-version=2024-10-21", headers=headers)
    plain = httpx.get(f"{keyed.url}/v1/models", headers=headers)
    assert (azure.status_code, error_document(azure)["code"]) == (401, "401")
    assert (plain.status_code, error_document(plain)["code"], error_document(plain)["type"]) == (
        401,
        None,
        "invalid_request_error",
    )


@pytest.mark.parametrize("headers", NO_KEYS)
def test_on_loopback_without_a_list_of_keys_none_is_needed(
    server: Running, wav: bytes, headers: dict[str, str]
) -> None:
    """curl and programs whose key is optional send none."""
    with server.fresh_pool() as pool:
        for path in (A, "/v1/audio/transcriptions"):
            answer = httpx.post(server.url + path, headers=headers, files={"file": wav}, data={"model": "fake-asr"})
            assert answer.status_code == 200, answer.text
        assert pool.owners[-2:] == ["local", "local"]


def test_a_server_that_is_open_to_the_network_asks_for_some_key() -> None:
    """Pages that a visitor opens there cannot be told by their address alone."""
    tables = {"host": "0.0.0.0", "open_to_network": True}  # noqa: S104 # nothing listens there
    with running(fake_settings(server=tables)) as server:
        answers = [httpx.get(f"{server.url}{path}") for path in ("/openai/models?api-version=2024-10-21", "/v1/models")]
    assert [answer.status_code for answer in answers] == [401, 401]
    assert all(error_document(answer)["message"].endswith("any text will do.") for answer in answers)


def test_a_list_of_keys_admits_only_those_and_names_their_owners(wav: bytes) -> None:
    keys = [{"name": "laptop", "key": "My API Key"}, {"name": "phone", "key": "ключ"}]
    with running(fake_settings(server={"api_keys": keys, "admin_key": "root"})) as server:
        for key in ("My API Key", "ключ".encode()):
            answer = httpx.post(server.url + A, headers={"api-key": key}, files={"file": wav})  # type: ignore[dict-item]
            assert answer.status_code == 200, answer.text
        assert server.pool.owners == ["laptop", "phone"]
        assert httpx.get(f"{server.url}/v1/models", params={"subscription-key": "ключ"}).status_code == 200
        wrong = httpx.get(f"{server.url}/v1/models", headers={"authorization": "Bearer my api key"})
        assert (wrong.status_code, error_document(wrong)["code"]) == (401, "invalid_api_key")
        both = {"api-key": "wrong", "authorization": "Bearer My API Key"}
        assert httpx.get(f"{server.url}/v1/models", headers=both).status_code == 200


def test_control_routes_need_the_admin_key() -> None:
    skip_over_cluster("nothing is unloaded by hand")
    settings = fake_settings(server={"api_keys": [{"name": "laptop", "key": "k"}], "admin_key": "root"})
    with running(settings) as server:
        path = f"{server.url}/admin/unload/team%2Fasr%20model"
        assert httpx.post(path, headers={"api-key": "k"}).status_code == 403
        answer = httpx.post(path, headers={"api-key": "root"})
        assert (answer.status_code, answer.json()) == (200, {"deployment": "team/asr model", "state": "unloaded"})
        assert httpx.get(path, headers={"api-key": "root"}).status_code == 405
        missing = httpx.post(f"{server.url}/admin/load/ghost", headers={"api-key": "root"})
        assert (missing.status_code, error_document(missing)["code"]) == (404, "DeploymentNotFound")


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 404),
        ("?api-version=", 404),
        ("?api-version=2020-01-01", 404),
        ("?api-version=v1", 404),
        ("?api-version=2025-04-01-preview", 200),
        ("?api-version=2022-12-01", 200),
        ("?api-version=2025-08-28", 200),
        ("?api-version=2031-12-31-preview", 200),
        ("?api-version=2025-13-28", 404),
        ("?api-version=2025-08-28-beta", 404),
    ],
)
def test_dated_schemes_need_a_known_version(server: Running, wav: bytes, query: str, status: int) -> None:
    listing = httpx.get(f"{server.url}/openai/models{query}", headers=KEY)
    answer = httpx.post(server.url + A.partition("?")[0] + query, headers=KEY, files={"file": wav})
    assert listing.status_code == answer.status_code == status
    if status == 404:
        assert error_document(answer)["code"] == "404"


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 200),
        ("?api-version=v1", 200),
        ("?api-version=preview", 200),
        ("?api-version=2024-10-21", 200),
        ("?api-version=nonsense", 404),
    ],
)
def test_the_v1_scheme_takes_none_or_a_known_one(server: Running, query: str, status: int) -> None:
    assert httpx.get(f"{server.url}/openai/v1/models{query}", headers=KEY).status_code == status
    assert httpx.get(f"{server.url}/v1/models{query}", headers=KEY).status_code == 200


def test_further_versions_can_be_configured() -> None:
    with running(fake_settings(server={"api_versions": ["next"]})) as server:
        assert httpx.get(f"{server.url}/openai/models?api-version=next", headers=KEY).status_code == 200


def test_a_near_miss_is_named(server: Running) -> None:
    answer = httpx.post(f"{server.url}/v1/v1/audio/transcriptions", headers=KEY)
    assert answer.status_code == 404
    assert error_document(answer)["message"].endswith("did you mean /v1/audio/transcriptions?")


@pytest.mark.parametrize(
    ("charset", "encoding", "status"),
    [
        ("; charset=iso-8859-1", "latin-1", 200),
        ("; charset=UTF-16", "utf-16", 200),
        ('; charset="utf-8"', "utf-8", 200),
        ("", "utf-8", 200),
        ("", "latin-1", 400),
        ("; charset=utf-8", "latin-1", 400),
        ("; charset=klingon", "utf-8", 400),
    ],
)
def test_a_declared_charset_is_honoured(server: Running, charset: str, encoding: str, status: int) -> None:
    body = '{"model": "fake-tts", "voice": "alloy", "input": "Sch\u00f6ne Gr\u00fc\u00dfe"}'.encode(encoding)
    headers = KEY | {"content-type": f"application/json{charset}"}
    answer = httpx.post(f"{server.url}/v1/audio/speech", headers=headers, content=body)
    assert answer.status_code == status, answer.text[:300]
    if status == 200:
        assert server.pool.requests[-1].text == "Sch\u00f6ne Gr\u00fc\u00dfe"
    else:
        assert "UTF-8" in error_document(answer)["message"]


@pytest.mark.parametrize(
    ("path", "model", "status", "code"),
    [
        ("/openai/deployments/ghost/audio/transcriptions?api-version=2024-10-21", None, 404, "DeploymentNotFound"),
        ("/openai/v1/audio/transcriptions", "ghost", 404, "DeploymentNotFound"),
        ("/v1/audio/transcriptions", "ghost", 404, "model_not_found"),
        ("/v1/audio/transcriptions", None, 400, "missing_required_parameter"),
        ("/v1/audio/transcriptions", "", 400, "missing_required_parameter"),
        ("/v1/audio/transcriptions", "fake-tts", 400, "OperationNotSupported"),
        (
            "/openai/deployments/fake-chat/audio/transcriptions?api-version=2024-10-21",
            None,
            400,
            "OperationNotSupported",
        ),
    ],
)
def test_deployments_that_do_not_fit(
    server: Running, wav: bytes, path: str, model: str | None, status: int, code: str
) -> None:
    data = {} if model is None else {"model": model}
    answer = httpx.post(server.url + path, headers=KEY, files={"file": wav}, data=data)
    assert (answer.status_code, error_document(answer)["code"]) == (status, code)


def test_the_path_beats_the_body(server: Running, wav: bytes) -> None:
    answer = httpx.post(server.url + A, headers=KEY, files={"file": wav}, data={"model": "fake-tts"})
    assert (answer.status_code, answer.headers["x-ms-deployment-name"]) == (200, "fake-asr")


@pytest.mark.parametrize(
    "path",
    [
        "//openai/deployments/fake-asr/audio/transcriptions?api-version=2024-10-21",
        "/openai/deployments/fake-asr/audio/transcriptions/?api-version=2024-10-21",
        "/openai/v1/deployments/fake-asr/audio/transcriptions",
        f"/openai/deployments/{quote('team/asr model', safe='')}/audio/transcriptions?api-version=2024-10-21",
    ],
)
def test_lenient_paths_answer_without_a_redirect(server: Running, wav: bytes, path: str) -> None:
    assert httpx.post(server.url + path, headers=KEY, files={"file": wav}).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("POST", "/openai/deployments/fake-asr/embeddings?api-version=2024-10-21", 404),
        ("POST", "/", 405),
        ("GET", "/v1/audio/transcriptions", 405),
        ("DELETE", "/v1/models/fake-asr", 405),
        ("OPTIONS", "/v1/models", 405),
    ],
)
def test_unknown_routes_and_methods(server: Running, method: str, path: str, status: int) -> None:
    answer = httpx.request(method, server.url + path, headers=KEY)
    assert (answer.status_code, error_document(answer)["code"]) == (status, str(status))
    assert ("allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize(
    ("content", "content_type", "code"),
    [
        (b"{}", "application/json", "missing_required_parameter"),
        (b"{}", "text/plain", "unsupported_content_type"),
        (b"a=b", "application/x-www-form-urlencoded", "unsupported_content_type"),
        (b"", "multipart/form-data; boundary=b", None),
        (b"junk", "multipart/form-data; boundary=b", None),
        (b"junk", "multipart/form-data", None),
    ],
)
def test_bodies_of_the_wrong_kind(server: Running, content: bytes, content_type: str, code: str | None) -> None:
    answer = httpx.post(server.url + A, headers=KEY | {"content-type": content_type}, content=content)
    assert (answer.status_code, error_document(answer)["code"]) == (400, code)


def test_ids_and_standing_headers(server: Running) -> None:
    answer = httpx.get(f"{server.url}/v1/models", headers=KEY | {"x-ms-client-request-id": "mine"})
    headers = answer.headers
    assert uuid.UUID(headers["x-request-id"]) == uuid.UUID(headers["apim-request-id"])
    assert headers["x-ms-client-request-id"] == "mine"
    assert float(headers["openai-processing-ms"]) >= 0
    assert (headers["x-ms-region"], headers["x-content-type-options"]) == ("local", "nosniff")
    failed = httpx.get(f"{server.url}/v1/nothing")
    assert failed.headers["x-request-id"] == failed.headers["x-ms-client-request-id"] != headers["x-request-id"]


def test_a_hostile_client_id_cannot_split_headers(server: Running) -> None:
    hostile = ("a\tb\xe9" + "x" * 1000).encode("latin-1")
    answer = httpx.get(f"{server.url}/health/live", headers={b"x-ms-client-request-id": hostile})
    assert answer.headers["x-ms-client-request-id"] == "a?b?" + "x" * 252


@pytest.mark.parametrize(
    ("error", "status", "code", "seconds", "milliseconds"),
    [
        (Overloaded("full", retry_after=0.25), 429, "429", "1", "250"),
        (Overloaded("full", retry_after=1000), 429, "429", "120", "120000"),
        (Overloaded("full"), 429, "429", "5", "5000"),
        (ModelUnavailable("speech-gateway pull x", retry_after=2), 503, "ModelUnavailable", "2", "2000"),
    ],
)
def test_refusals_say_when_to_come_back(
    server: Running, wav: bytes, error: Overloaded, status: int, code: str, seconds: str, milliseconds: str
) -> None:
    server.pool.refuse = error
    try:
        answer = httpx.post(server.url + A, headers=KEY, files={"file": wav})
    finally:
        server.pool.refuse = None
    assert (answer.status_code, error_document(answer)["code"]) == (status, code)
    assert (answer.headers["retry-after"], answer.headers["retry-after-ms"]) == (seconds, milliseconds)


def test_a_defect_shows_no_trace(server: Running, wav: bytes) -> None:
    def broken(request: object) -> Any:
        raise ZeroDivisionError("secret detail")

    server.pool.script, script = broken, server.pool.script
    try:
        answer = httpx.post(server.url + A, headers=KEY, files={"file": wav})
    finally:
        server.pool.script = script
    assert (answer.status_code, error_document(answer)["code"]) == (500, "internal_server_error")
    assert "secret" not in answer.text
    assert answer.headers["x-request-id"]


def test_listings_have_the_fields_of_both_worlds(server: Running) -> None:
    for path in (
        "/v1/models",
        "/openai/v1/models",
        "/openai/models?api-version=2024-10-21",
        "/openai/deployments/fake-asr/models?api-version=2024-10-21",
    ):
        listing = httpx.get(server.url + path, headers=KEY).json()
        assert listing["object"] == "list"
        ids = {model["id"] for model in listing["data"]}
        assert {"team/asr model", "embedded-tts", "whisper-1", "gpt-4o-transcribe"} <= ids
        for model in listing["data"]:
            assert {
                "created",
                "owned_by",
                "created_at",
                "status",
                "lifecycle_status",
                "capabilities",
                "deprecation",
            } <= set(model)
    one = httpx.get(f"{server.url}/v1/models/team%2Fasr%20model", headers=KEY)
    assert one.json()["id"] == "team/asr model"
    assert httpx.get(f"{server.url}/v1/models/team/asr model", headers=KEY).json() == one.json()
    assert error_document(httpx.get(f"{server.url}/v1/models/ghost", headers=KEY))["code"] == "model_not_found"
    legacy = httpx.get(f"{server.url}/openai/deployments?api-version=2022-12-01", headers=KEY).json()
    assert {"id", "model", "object", "status", "owner", "created_at", "updated_at", "scale_settings"} <= set(
        legacy["data"][0]
    )
    one_deployment = httpx.get(f"{server.url}/openai/deployments/fake-asr?api-version=2022-12-01", headers=KEY).json()
    assert (one_deployment["id"], one_deployment["object"]) == ("fake-asr", "deployment")
