"""What can be configured of the server. Light to import: the command line makes its flags from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from penstock.errors import ConfigError

DIALECTS = ("openai", "tgi", "anthropic", "ollama", "llama_server", "demo", "page")
TOOL_FORMATS = ("auto", "hermes", "llama3_json", "mistral", "glm")

POOLINGS = ("auto", "mean", "last")
LOG_FORMATS = ("text", "json")


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Sizes in bytes, times in seconds.

    ``host`` is loopback unless told otherwise; ``port`` 0 takes a free one. ``api_keys`` / ``api_key_file`` (one a
    line) guard every route but liveness; ``admin_api_keys`` open the routes that change what is served, which are
    shut without one. ``allowed_hosts``: Host headers taken besides loopback names when bound to
    loopback (``*``: any). ``allowed_origins``: web pages of other origins that may call (CORS); none by default.
    ``max_requests_per_client`` (0: no bound) counts by API key, else by address; ``request_timeout`` (0: none) is for
    the whole answer, ``queue_timeout`` (0: none) for the time till its first step. A step that takes longer than
    ``watchdog_timeout`` makes ``/health`` fail, longer than ``hang_timeout`` (0: never) the server end.
    ``tool_call_parser``: how the model writes calls, by its template when ``auto``. ``reasoning``: tell what the model
    thinks apart from its answer, where its template marks it. ``pooling``: how the vectors of a text become its
    embedding; ``auto``: as the checkpoint says, else ``last``.

    ``model_aliases``: further names of the one model that is given at the start.

    ``models_dir``: a folder of checkpoints, each loaded when a request first names it. At most ``max_loaded_models``
    of them (0: no bound) and ``model_memory`` bytes (0: no bound; weights and KV cache) are kept, and the one that was
    used least recently goes first. ``otlp_traces_endpoint``: an OpenTelemetry collector that spans are sent to.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()
    api_key_file: str | None = None
    admin_api_keys: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    disabled_dialects: tuple[str, ...] = ()
    max_body: int = 32 << 20
    max_header: int = 32 << 10
    max_connections: int = 2048
    max_requests: int = 4096
    max_requests_per_client: int = 0
    request_timeout: float = 0.0
    queue_timeout: float = 0.0
    header_timeout: float = 20.0
    body_timeout: float = 60.0
    write_timeout: float = 60.0
    keep_alive: float = 30.0
    drain_timeout: float = 30.0
    watchdog_timeout: float = 120.0
    hang_timeout: float = 1800.0
    log_requests: bool = True
    tool_call_parser: str = "auto"
    reasoning: bool = True
    pooling: str = "auto"
    log_format: str = "text"
    model_aliases: tuple[str, ...] = ()
    models_dir: str | None = None
    max_loaded_models: int = 0
    model_memory: int = 0
    otlp_traces_endpoint: str | None = None

    def __post_init__(self) -> None:
        for name, low, high in (
            ("port", 0, 65535), ("max_body", 1024, 1 << 32), ("max_header", 1024, 1 << 24),
            ("max_connections", 1, 1 << 20), ("max_requests", 1, 1 << 20), ("max_requests_per_client", 0, 1 << 20),
            ("max_loaded_models", 0, 1 << 16), ("model_memory", 0, 1 << 50),
        ):  # fmt: skip
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ConfigError(f"{name} must be a whole number from {low} to {high}, got {value!r}")
        for name in ("header_timeout", "body_timeout", "write_timeout", "keep_alive", "watchdog_timeout"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 < value <= 86400:
                raise ConfigError(f"{name} must be seconds above 0, at most 86400, got {value!r}")
        for name in ("drain_timeout", "request_timeout", "queue_timeout", "hang_timeout"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value <= 86400:
                raise ConfigError(f"{name} must be seconds from 0 to 86400, got {value!r}")
        for name, choices in (
            ("tool_call_parser", TOOL_FORMATS), ("pooling", POOLINGS), ("log_format", LOG_FORMATS),
        ):  # fmt: skip
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        for name in self.disabled_dialects:
            if name not in DIALECTS:
                raise ConfigError(f"disabled_dialects: '{name}' is not one of {', '.join(DIALECTS)}")

    @property
    def loopback(self) -> bool:
        return self.host in ("localhost", "::1") or self.host.startswith("127.")


def split(options: Mapping[str, Any]) -> tuple[ServerOptions, dict[str, Any]]:
    """Flat options as (the server's, the rest, which are the engine's). ``api_key`` is one key or several."""
    names = {f.name for f in fields(ServerOptions)}
    mine: dict[str, Any] = {
        k: _tuple(v) if k in TUPLES else v for k, v in options.items() if k in names and v is not None
    }
    keys = options.get("api_key")
    if keys:
        mine["api_keys"] = (*mine.get("api_keys", ()), *_tuple(keys))
    rest = {k: v for k, v in options.items() if k not in names and k != "api_key"}
    return ServerOptions(**mine), rest


TUPLES = frozenset(
    {"api_keys", "admin_api_keys", "allowed_hosts", "allowed_origins", "disabled_dialects", "model_aliases"}
)


def _tuple(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)
