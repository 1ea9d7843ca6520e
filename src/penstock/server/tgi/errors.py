"""TGI's form of an error: ``{"error": message, "error_type": kind}``, with its statuses."""

from __future__ import annotations

from typing import Any

from penstock.server.errors import Problem

KINDS = {
    "execution_error": (424, "generation"),
    "overloaded": (429, "overloaded"),
    "template_error": (422, "template_error"),
    "internal_error": (500, "incomplete_generation"),
    "shutting_down": (503, "unhealthy"),
    "unhealthy": (503, "unhealthy"),
}


def error(problem: Problem) -> tuple[int, dict[str, Any]]:
    status, kind = KINDS.get(problem.kind, (problem.status, "validation"))
    if status == 400:
        status = 422
    return status, {"error": problem.message, "error_type": kind}
