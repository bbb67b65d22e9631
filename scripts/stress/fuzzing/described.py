"""Requests that the OpenAPI document describes, and such that break it, made and judged by schemathesis.

Owns which of its checks count here, and that names of real deployments are among what it tries. Every operation is
called, those of the administrator too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import hypothesis
import requests
import schemathesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance, unsupported_method

from app.routes.openapi import document
from app.routes.table import OPERATIONS
from scripts.stress.fuzzing.exchange import KEY, PATIENCE_SECONDS, Outcome, judge

# A generated upload is no audio and a generated name no deployment, so valid data may be refused; and unknown or
# oddly typed fields are tolerated on purpose, as the contract asks.
EXCLUDED = [positive_data_acceptance, negative_data_rejection, unsupported_method]
HEADERS = {"api-key": KEY}
Tell = Callable[[str, Outcome], None]


def run(port: int, seed: int, ends: float, names: Sequence[str], tell: Tell, examples: int = 3) -> None:
    """Call every operation until the clock says `ends`, a few times each in turn; `tell` gets a note and the outcome of
    each."""
    schema = schemathesis.openapi.from_dict(document(OPERATIONS))
    operations = [result.ok() for result in schema.get_all_operations()]
    with requests.Session() as session:
        while time.monotonic() < ends:
            for operation in operations:
                for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                    if time.monotonic() < ends:
                        _try(operation, mode, seed, examples, lambda case: _call(case, port, session, tell), names)
            seed += 1


def _try(
    operation: Any, mode: GenerationMode, seed: int, examples: int, call: Callable[[Any], None], names: Sequence[str]
) -> None:
    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(operation.as_strategy(generation_mode=mode), st.sampled_from(["", "", *names]))
    def one(case: Any, name: str) -> None:
        if name:
            _put_name(case, name)
        call(case)

    try:
        one()
    except (hypothesis.errors.Unsatisfiable, schemathesis.errors.InvalidSchema):
        return  # nothing can be wrong with an operation that takes nothing


def _put_name(case: Any, name: str) -> None:
    """A deployment that exists, so that more than the check of the name is reached."""
    for key in ("deployment", "model"):
        if key in (case.path_parameters or {}):
            case.path_parameters[key] = name
    if isinstance(case.body, dict):
        case.body["model"] = name


def _call(case: Any, port: int, session: requests.Session, tell: Tell) -> None:
    began = time.monotonic()
    note = f"{case.method} {case.formatted_path}"
    try:
        answer = case.call(
            base_url=f"http://127.0.0.1:{port}", headers=HEADERS, session=session, timeout=PATIENCE_SECONDS
        )
    except (requests.RequestException, Failure, OSError) as error:
        tell(note, Outcome(0, time.monotonic() - began, f"no answer: {error!r}"))
        return
    except ValueError as error:  # what cannot travel, such as a header with a line end
        tell(f"{note}: not sent: {error!r}", Outcome(0, 0.0))
        return
    finding = judge(answer.status_code, answer.headers.get("content-type", [""])[0], answer.content, str(case.method))
    try:
        case.validate_response(answer, excluded_checks=EXCLUDED, headers=HEADERS)
    except FailureGroup as group:
        finding = finding or "; ".join(str(error)[:300] for error in group.exceptions)
    except Failure as error:
        finding = finding or str(error)[:300]
    tell(note, Outcome(answer.status_code, time.monotonic() - began, finding))
