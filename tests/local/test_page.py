"""The page's host: its addresses, caching, security headers and /config.json."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from infra.local.page import create_app, security_headers
from infra.local.postgres import ROOT
from tests.api import Api
from tests.servers import serve

BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
CONFIG = {
    "functions": {"chat": "https://chat.example", "keys": "https://keys.example/", "account": "https://chat.example"},
    "supabase_url": "https://project.supabase.example",
    "publishable_key": "public",
    "parliament_url": "https://api.openparliament.example/v1/",
}


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    """A folder where Vite has built nothing yet."""
    return tmp_path / "dist"


@pytest.fixture
def host(dist: Path) -> Iterator[httpx.Client]:
    with serve(create_app(CONFIG, dist)) as url, httpx.Client(base_url=url, headers=BROWSER) as client:
        yield client


def test_a_page_that_is_not_built_names_the_command(host: httpx.Client, dist: Path) -> None:
    missing = host.get("/")
    assert (missing.status_code, missing.text) == (
        503,
        "The page is not built. This command builds it: make frontend/dist/index.html\n",
    )
    assert missing.headers["content-type"].startswith("text/plain")
    assert re.search(r"^PAGE +:= frontend/dist/index\.html$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    (dist / "assets").mkdir(parents=True)
    (dist / "index.html").write_text("<!doctype html>")
    assert host.get("/").status_code == 200


def test_only_assets_are_cached(host: httpx.Client, dist: Path) -> None:
    (dist / "assets").mkdir(parents=True)
    (dist / "index.html").write_text("<!doctype html>")
    (dist / "assets/index-1a2b.js").write_text("export {}")
    for path in ("/", "/c/a-chat", "/shared/a-token"):
        page = host.get(path)
        assert (page.status_code, page.text, page.headers["cache-control"]) == (200, "<!doctype html>", "no-cache")
    asset = host.get("/assets/index-1a2b.js")
    assert asset.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert "javascript" in asset.headers["content-type"]
    assert asset.headers["x-content-type-options"] == "nosniff"
    for path in ("/assets/missing.js", "/assets/..%2findex.html", "/assets/%2e%2e", "/index.html"):
        assert host.get(path).status_code == 404
    assert host.get("/config.json").json() == CONFIG
    assert host.get("/config.json").headers["cache-control"] == "no-cache"


def test_scripts_may_call_only_the_configured_origins(host: httpx.Client, dist: Path) -> None:
    dist.mkdir()
    (dist / "index.html").write_text("<!doctype html>")
    headers = host.get("/c/a-chat").headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["connect-src"].split() == [
        "'self'",
        "https://api.openparliament.example",
        "https://chat.example",
        "https://keys.example",
        "https://project.supabase.example",
    ]
    assert (policy["default-src"], policy["script-src"], policy["frame-ancestors"]) == ("'none'", "'self'", "'none'")
    assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "same-origin")


def test_the_docs_have_the_same_headers_for_other_hosts() -> None:
    documented = " ".join((ROOT / "docs/deploy.md").read_text().split())
    for name, value in security_headers(["CHAT", "KEYS", "CHECKOUT", "ACCOUNT", "SUPABASE", "PARLIAMENT"]).items():
        assert f"{name}: {value}" in documented


@pytest.mark.parametrize("accept", ["application/json", "*/*"])
def test_the_api_answers_a_shared_address_unless_html_is_accepted(api: Api, accept: str) -> None:
    missing = api.http.get("/shared/no-such-token", headers={"accept": accept})
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    page = api.http.get("/shared/no-such-token", headers=BROWSER)
    assert page.status_code == 200, page.text
    assert page.headers["content-type"].startswith("text/html")
    assert "accept" in page.headers["vary"].split(", ")


def test_the_stack_configures_its_page(api: Api) -> None:
    config = api.http.get("/config.json").json()
    assert config["functions"] == dict.fromkeys(
        ("chat", "keys", "checkout", "account"), str(api.http.base_url).rstrip("/")
    )
    assert config["stack"] is True
    assert config["publishable_key"].startswith("sb_publishable_")
    policy = api.http.get("/", headers=BROWSER).headers["content-security-policy"]
    assert config["supabase_url"] in policy
    assert config["parliament_url"] in policy
