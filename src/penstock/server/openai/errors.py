"""OpenAI's form of an error: ``{"error": {message, type, param, code}}``."""

from __future__ import annotations

from typing import Any

from penstock.server.errors import Problem

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
}


def error_body(problem: Problem) -> dict[str, Any]:
    return {
        "error": {
            "message": problem.message,
            "type": TYPES.get(problem.status, "server_error"),
            "param": problem.param,
            "code": problem.kind,
        }
    }


def error(problem: Problem) -> tuple[int, dict[str, Any]]:
    return problem.status, error_body(problem)
