"""Every error the gateway answers with, and the one place that renders an error body.

The envelope is the superset of Azure's and OpenAI's: {"error": {"code", "message", "type", "param"}}. Nothing else in
the project builds an error body. Backends raise their own small errors; `from_failure` maps those.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response

from backends.interface import Failed

INVALID_REQUEST = "invalid_request_error"
SERVER_ERROR = "server_error"
# The Python SDK gives up at a longer retry-after; the Node SDK then uses its own delay.
LONGEST_RETRY_SECONDS = 120.0
# Characters of a text that an answer or the log repeats: what a client or a file wrote may be megabytes.
LONGEST_MESSAGE = 2000


def shortened(text: str) -> str:
    """The text as far as it is worth reading."""
    return text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]}... ({len(text)} characters)"


class ApiError(Exception):
    """An answer with an error status.

    retry_after: seconds, for refusals that a client should repeat; should_retry: overrules what the SDKs conclude from
    the status (False: repeating cannot help); headers: further ones the answer carries.
    """

    status = 500
    code: str | None = "internal_server_error"
    type = SERVER_ERROR
    reason: ClassVar[str] = ""  # label of gateway_refused_total; "": no refusal, or one that the scheduler counts
    default_retry: ClassVar[float | None] = None  # seconds, for refusals whose cause gives no better guess

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        should_retry: bool | None = None,
        inner: dict[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(shortened(message))
        self.message, self.param, self.inner, self.should_retry = shortened(message), param, inner, should_retry
        self.retry_after = self.default_retry if retry_after is None else retry_after
        self.headers = dict(headers or {})
        if code is not None:
            self.code = code

    def body(self) -> dict[str, Any]:
        error: dict[str, Any] = {"code": self.code, "message": self.message, "type": self.type, "param": self.param}
        if self.inner:
            error["innererror"] = self.inner
        return {"error": error}

    def encoded(self) -> bytes:
        """The body as JSON, for answers and for errors inside an event stream."""
        return msgspec.json.encode(self.body())

    def response_headers(self) -> dict[str, str]:
        """`headers` and what tells a client whether and when to try again."""
        headers = dict(self.headers)
        if self.retry_after is not None:
            seconds = min(max(self.retry_after, 0.0), LONGEST_RETRY_SECONDS)
            headers["retry-after"] = str(max(1, math.ceil(seconds)))
            headers["retry-after-ms"] = str(max(1, math.ceil(seconds * 1000)))
        if self.should_retry is not None:
            headers["x-should-retry"] = "true" if self.should_retry else "false"
        return headers

    def response(self) -> Response:
        """The whole answer."""
        return Response(self.encoded(), self.status, self.response_headers(), "application/json")


class InvalidRequest(ApiError):
    """The request is wrong as it stands (400)."""

    status, type = 400, INVALID_REQUEST
    code: str | None = "invalid_value"


class BrokenBody(InvalidRequest):
    """A body that is not what its content type says; the real service sends code null (400)."""

    code = None


class MissingParameter(InvalidRequest):
    code = "missing_required_parameter"


class UnsupportedValue(InvalidRequest):
    """Valid in the contract, not served by this deployment (400)."""

    code = "unsupported_value"


class UnsupportedParameter(InvalidRequest):
    code = "unsupported_parameter"


class OperationNotSupported(InvalidRequest):
    """The deployment does another task (400)."""

    code = "OperationNotSupported"


class UnsupportedContentType(InvalidRequest):
    code = "unsupported_content_type"


class Unauthorized(ApiError):
    status, type = 401, INVALID_REQUEST
    code: str | None = "401"
    reason = "unauthorized"


class MissingKey(Unauthorized):
    """No key at all, which OpenAI answers with the code null (401)."""

    code = None


class Forbidden(ApiError):
    """A valid key without the right, a foreign web page, or a Host name that is not ours (403)."""

    status, code, type = 403, "PermissionDenied", INVALID_REQUEST
    reason = "forbidden"


class NotFound(ApiError):
    """Unknown route, or a missing or unknown api-version (404, as Azure answers)."""

    status, code, type = 404, "404", INVALID_REQUEST


class DeploymentNotFound(NotFound):
    code = "DeploymentNotFound"


class ModelNotFound(NotFound):
    code = "model_not_found"


class MethodNotAllowed(ApiError):
    status, code, type = 405, "405", INVALID_REQUEST


class UpgradeRequired(ApiError):
    """The operation is a WebSocket (426)."""

    status, code, type = 426, "upgrade_required", INVALID_REQUEST


class RequestTimeout(ApiError):
    """The upload took too long (408)."""

    status, code, type = 408, "request_timeout", INVALID_REQUEST
    reason, default_retry = "upload_timeout", 1.0


class TooLarge(ApiError):
    """The body is over the byte cap (413); type server_error is what the real service sends."""

    status, code, type = 413, None, SERVER_ERROR
    reason = "too_large"


class Overloaded(ApiError):
    """Refused because the wait would be too long (429)."""

    status, code, type = 429, "429", "rate_limit_error"
    default_retry = 5.0


class ServiceUnavailable(ApiError):
    status, code, type = 503, "service_unavailable", SERVER_ERROR
    default_retry = 5.0


class ModelUnavailable(ServiceUnavailable):
    """The deployment exists but cannot run now; the message says what is missing and which command cures it."""

    code = "ModelUnavailable"
    default_retry = 30.0


class StorageFull(ServiceUnavailable):
    """The disk has no room for what the request needs (507, RFC 4918 11.5)."""

    status = 507
    code = "insufficient_storage"
    default_retry = 30.0


class Draining(ServiceUnavailable):
    code = "draining"


class WorkerLost(ServiceUnavailable):
    """The worker process ended in the middle of the job."""

    code = "worker_lost"
    default_retry = 1.0


class OutOfMemory(ServiceUnavailable):
    code = "out_of_memory"


_BY_KIND: dict[str, type[ApiError]] = {
    "invalid_input": InvalidRequest,
    "model_unavailable": ModelUnavailable,
    "out_of_memory": OutOfMemory,
    "worker_lost": WorkerLost,
}


def from_failure(failure: Failed) -> ApiError:
    """The API error for what a backend reported. An unexpected failure never shows its text to the client."""
    kind = _BY_KIND.get(failure.kind)
    if kind is None:
        return ApiError("The model failed on this request. The server's log has the details under this request id.")
    return kind(failure.message, param=failure.param, code=failure.code)


def internal_error() -> ApiError:
    """What a client sees of a defect of ours: no trace, no text of the exception."""
    return ApiError("The server failed on this request. Its log has the details under this request id.")


def from_http_exception(error: HTTPException) -> ApiError:
    """The same answer in our envelope for what Starlette or FastAPI raise themselves."""
    if error.status_code == 404:
        return NotFound("Resource not found.")
    if error.status_code == 405:
        return MethodNotAllowed("This method is not allowed here.", headers=error.headers)
    answer = InvalidRequest(str(error.detail)) if error.status_code < 500 else internal_error()
    answer.status = error.status_code
    return answer
