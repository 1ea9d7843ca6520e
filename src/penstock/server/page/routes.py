"""Routes of the page. Its files are public, so that a browser can ask for the key; everything that tells something of
the server wants the key like any other route."""

from __future__ import annotations

from penstock.server.errors import not_found
from penstock.server.http import Call, Dialect, Endpoint, Reply, Stream, reply
from penstock.server.openai.errors import error
from penstock.server.page import files
from penstock.server.page import stats as numbers


async def index(call: Call) -> Reply | Stream:
    """The page for browsers; a line of text for everybody else."""
    page = files.built().get(files.INDEX)
    if page is None or not _browser(call.headers.get("accept", "")):
        from penstock.server.root import welcome

        call.state.keys.check(call.headers)
        return await welcome(call)
    return page.reply(call.headers)


async def asset(call: Call) -> Reply:
    """A file of the page."""
    name = call.path_params["name"]
    found = files.built().get(f"page/{name}")
    if found is None:
        call.state.keys.check(call.headers)
        raise not_found(f"the page has no file {name[:200]}")
    return found.reply(call.headers)


async def info(call: Call) -> Reply:
    """The models and their limits, for the page."""
    call.state.keys.check(call.headers)
    return reply(numbers.info(call.state), headers={"Cache-Control": "no-store"})


async def stats(call: Call) -> Reply:
    """The engine in numbers, for the page."""
    call.state.keys.check(call.headers)
    return reply(numbers.stats(call.state), headers={"Cache-Control": "no-store"})


def dialect() -> Dialect:
    """``public`` also because polls are no requests under way, and are answered while the server drains; what tells
    something checks the key itself."""
    endpoints = (
        Endpoint("GET", "/", index, public=True),
        Endpoint("GET", "/page/info", info, public=True),
        Endpoint("GET", "/page/stats", stats, public=True, quiet=True),
        Endpoint("GET", "/page/{name:path}", asset, public=True),
    )
    return Dialect("page", endpoints, error)


def _browser(accepted: str) -> bool:
    return any(part.partition(";")[0].strip().lower() == "text/html" for part in accepted.split(","))
