"""The OpenAPI document is true: a fuzzer reads it and finds no answer that it does not describe."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from jsonschema_rs import meta
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance, unsupported_method

from app.routes.openapi import document
from app.routes.table import OPERATIONS
from tests.support.server import Running, fake_settings, running

DOCUMENT = document(OPERATIONS)
schema = schemathesis.openapi.from_dict(DOCUMENT)
# A generated upload is no audio and a generated name no deployment, so valid data may be refused; and unknown or
# oddly typed fields are tolerated on purpose, as the contract asks.
EXCLUDED = [positive_data_acceptance, negative_data_rejection, unsupported_method]


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[Running]:
    with running(fake_settings(server={"api_keys": [{"name": "fuzzer", "key": "k"}]})) as server:
        yield server


@schema.parametrize()
@settings(
    max_examples=3,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_described(case: Any, fuzzed: Running) -> None:
    headers = {"api-key": "k"}
    answer = case.call(base_url=fuzzed.url, headers=headers)
    case.validate_response(answer, excluded_checks=EXCLUDED, headers=headers)
    assert answer.status_code != 500


def test_the_document_is_valid_and_complete() -> None:
    paths = DOCUMENT["paths"]
    assert sum(len(methods) for methods in paths.values()) == sum(len(operation.schemes) for operation in OPERATIONS)
    ids = [operation["operationId"] for methods in paths.values() for operation in methods.values()]
    assert len(ids) == len(set(ids))
    for methods in paths.values():
        for operation in methods.values():
            assert operation["summary"]
            assert {"200", "101"} & operation["responses"].keys()
            if operation["security"]:
                assert operation["responses"]["401"]["content"]["application/json"]["schema"]["$ref"].endswith("/Error")
    named = set(re.findall(r'"#/components/schemas/(\w+)"', str(DOCUMENT).replace("'", '"')))
    assert named <= set(DOCUMENT["components"]["schemas"])
    for one in DOCUMENT["components"]["schemas"].values():
        meta.validate(one)


def test_the_served_document_is_this_one(fuzzed: Running) -> None:
    assert httpx.get(f"{fuzzed.url}/openapi.json").json() == DOCUMENT
