"""The files of the page as HTTP answers: types, caching, policy; no browser needed."""

from __future__ import annotations

import gzip
import io
import re
import tarfile
from pathlib import Path

import pytest

from penstock.server.page import files
from tests.server.harness import Answer, Server

HTML = "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"
STATIC = Path(files.__file__).parent / "static"


@pytest.fixture(scope="module")
def index(site: Server) -> Answer:
    return site.get("/", Accept=HTML)


def _assets(index: Answer) -> list[str]:
    return re.findall(r'(?:src|href)="\./(page/[^"]+)"', index.body.decode())


def test_browsers_get_the_page_and_others_a_line_of_text(site, index):
    assert index.status == 200 and index.headers["content-type"] == "text/html; charset=utf-8"
    assert b'<div id="root">' in index.body
    for accept in ("*/*", "application/json", "text/plain"):
        answer = site.get("/", Accept=accept)
        assert answer.headers["content-type"].startswith("text/plain") and b"penstock" in answer.body


def test_the_page_can_be_switched_off(site):
    with Server(site.llm, disabled_dialects=("page",)) as server:
        answer = server.get("/", Accept=HTML)
        assert answer.status == 200 and answer.headers["content-type"].startswith("text/plain")
        for path in ("/page/info", "/page/stats", "/page/index.js"):
            assert server.get(path).status == 404


def test_post_stays_the_plain_demo(site):
    answer = site.post("/", {"prompt": "What is the capital of France?"}, Accept=HTML)
    assert answer.status == 200 and "Paris" in answer.json["response"]


def test_policy_is_strict_and_the_page_needs_nothing_inline(index):
    policy = dict(p.strip().partition(" ")[::2] for p in index.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'self'" and policy["script-src"] == "'self'" and policy["style-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'" and policy["object-src"] == "'none'" and policy["base-uri"] == "'none'"
    assert "unsafe" not in index.headers["content-security-policy"]
    assert index.headers["x-content-type-options"] == "nosniff"
    text = index.body.decode()
    assert not re.search(r"<style|\son\w+=|style=|<script(?![^>]*\ssrc=)", text)
    assert not re.search(r"https?://", text)


def test_assets_have_their_types_and_are_kept_for_ever(site, index):
    names = _assets(index)
    assert {n.rpartition(".")[2] for n in names} >= {"js", "css", "svg"}
    for name in names:
        answer = site.get(f"/{name}")
        assert answer.status == 200
        assert answer.headers["content-type"] == files.TYPES[name.rpartition(".")[2]]
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert index.headers["cache-control"] == "no-cache"


def test_gzip_for_those_who_take_it(site, index):
    name = next(n for n in _assets(index) if n.endswith(".js"))
    plain, packed = site.get(f"/{name}"), site.get(f"/{name}", Accept_Encoding="br, gzip;q=0.8")
    assert "content-encoding" not in plain.headers and packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body and len(packed.body) < len(plain.body) / 2
    assert packed.headers["vary"] == "Accept-Encoding"
    assert "content-encoding" not in site.get(f"/{name}", Accept_Encoding="gzip;q=0, br").headers


def test_those_who_have_it_are_told_so(site, index):
    again = site.get("/", Accept=HTML, If_None_Match=f'"x", {index.headers["etag"]}')
    assert again.status == 304 and again.body == b""
    assert site.get("/", Accept=HTML, If_None_Match='"other"').status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/page/nothing.js", "/page/", "/page/../routes.py", "/page/%2e%2e/%2e%2e/routes.py", "/page/..%2froutes.py",
        "/page//etc/passwd", "/page/x%00.js", "/page/static/index.html",
    ],
)  # fmt: skip
def test_nothing_else_is_given(site, path):
    assert site.get(path).status == 404


def test_with_keys_only_the_files_are_public(demo, index):
    with Server(demo, api_keys=("sesame",)) as guarded:
        assert guarded.get("/", Accept=HTML).status == 200
        assert guarded.get("/" + _assets(index)[0]).status == 200
        for path in ("/", "/page/info", "/page/stats", "/page/nothing", "/v1/models"):
            assert guarded.get(path).status == 401
        assert guarded.get("/page/stats", Authorization="Bearer sesame").status == 200


def test_numbers_of_the_engine(site):
    info, before = site.get("/page/info").json, site.get("/page/stats").json
    (model,) = info["models"]
    assert model["max_model_len"] == 1024 and model["defaults"]["temperature"] == 0
    site.post("/v1/completions", {"prompt": "The capital of France is", "max_tokens": 4, "ignore_eos": True})
    after = site.get("/page/stats").json
    (old,), (new,) = before["models"], after["models"]
    assert new["generation_tokens"] - old["generation_tokens"] == 4
    assert sum(new["latency"]["ttft"]["counts"]) == sum(old["latency"]["ttft"]["counts"]) + 1
    assert new["blocks_total"] > 0 and len(new["latency"]["ttft"]["bounds"]) + 1 == len(
        new["latency"]["ttft"]["counts"]
    )
    assert set(new["blocks"]) <= set("0123456789")
    assert str(STATIC.parents[3]) not in site.get("/page/info").body.decode()


def test_what_ships_is_small_and_needs_nobody_else():
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.add(STATIC, arcname="static")
    assert packed.tell() < 2 << 20
    assert not list(STATIC.rglob("*.map"))
    for file in STATIC.rglob("*"):
        if file.suffix == ".css":
            assert not re.search(rb"url\((?!\./|KaTeX|data:,)[^)]*//", file.read_bytes())
