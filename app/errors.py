"""Every error the gateway answers with, and the one place that renders an error body.

The envelope is the superset of Azure's and OpenAI's: {"error": {"code", "message", "type", "param"}}. Nothing else in
the project builds an error body. Backends raise their own small errors; `from_failure` maps those.
"""

from __future__ import annotations

from typing import Any

from backends.interface import Failed

INVALID_REQUEST = "invalid_request_error"
SERVER_ERROR = "server_error"


class ApiError(Exception):
    """An answer with an error status. retry_after: seconds, for refusals that a client should repeat."""

    status = 500
    code: str | None = "internal_server_error"
    type = SERVER_ERROR

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        inner: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.param, self.retry_after, self.inner = message, param, retry_after, inner
        if code is not None:
            self.code = code

    def body(self) -> dict[str, Any]:
        error: dict[str, Any] = {"code": self.code, "message": self.message, "type": self.type, "param": self.param}
        if self.inner:
            error["innererror"] = self.inner
        return {"error": error}


class InvalidRequest(ApiError):
    """The request is wrong as it stands (400)."""

    status, code, type = 400, "invalid_value", INVALID_REQUEST


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
    status, code, type = 401, "401", INVALID_REQUEST


class NotFound(ApiError):
    """Unknown route, or a missing or unknown api-version (404, as Azure answers)."""

    status, code, type = 404, "404", INVALID_REQUEST


class DeploymentNotFound(NotFound):
    code = "DeploymentNotFound"


class ModelNotFound(NotFound):
    code = "model_not_found"


class MethodNotAllowed(ApiError):
    status, code, type = 405, "405", INVALID_REQUEST


class RequestTimeout(ApiError):
    """The upload took too long (408)."""

    status, code, type = 408, "request_timeout", INVALID_REQUEST


class TooLarge(ApiError):
    """The body is over the byte cap (413); type server_error is what the real service sends."""

    status, code, type = 413, None, SERVER_ERROR


class Overloaded(ApiError):
    """Refused because the wait would be too long (429)."""

    status, code, type = 429, "429", "rate_limit_error"


class ServiceUnavailable(ApiError):
    status, code, type = 503, "service_unavailable", SERVER_ERROR


class ModelUnavailable(ServiceUnavailable):
    """The deployment exists but cannot run now; the message says what is missing and which command cures it."""

    code = "ModelUnavailable"


class Draining(ServiceUnavailable):
    code = "draining"


class WorkerLost(ServiceUnavailable):
    """The worker process ended in the middle of the job."""

    code = "worker_lost"


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
    retry = 5.0 if issubclass(kind, ServiceUnavailable) else None
    return kind(failure.message, param=failure.param, code=failure.code, retry_after=retry)
