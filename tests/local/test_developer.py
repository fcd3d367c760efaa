"""/_stack, which the developer's panel uses, and the page and functions on origins of their own."""

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from infra.local.auth import load_or_create_key
from infra.local.stack import Stack
from tests.api import Api, question
from tests.conftest import Person

TOKEN_OF_A_SHARE = "a-token-of-no-share"


@pytest.fixture
def panel(stack: Stack) -> Iterator[httpx.Client]:
    """A client of /_stack that leaves no fault behind."""
    with httpx.Client(base_url=stack.info["functions_url"], timeout=30) as client:
        yield client
        client.post("/_stack/fault", json={"directive": None}).raise_for_status()


def test_the_stack_says_what_runs_where_and_who_can_sign_in(panel: httpx.Client, stack: Stack) -> None:
    about = panel.get("/_stack").json()
    assert stack.info["stripe_url"] in [place["url"] for place in about["places"]]
    assert all(place["name"] and place["fr"] for place in about["places"])
    assert [user["tier"] for user in about["users"]] == ["free", "basic", "pro", "usage_only"]
    assert all(set(user) == {"tier", "email", "password"} for user in about["users"])
    assert [fault["name"] for fault in about["faults"]] == ["slow", "overloaded", "cut", "refusal", "drop"]
    assert (about["fault"], about["clock"]["moving"], about["stripe_url"]) == (None, None, stack.info["stripe_url"])


def test_a_token_is_a_fresh_one_of_the_seeded_user(panel: httpx.Client, stack: Stack) -> None:
    token = panel.post("/_stack/token", json={"tier": "pro"}).json()["access_token"]
    claims = load_or_create_key(stack.config.folder / "signing-key.pem").verify(token, audience="authenticated")
    assert claims["iss"] == f"{stack.info['supabase_url']}/auth/v1"
    assert claims["sub"] == stack.info["users"]["pro"]["id"]
    assert panel.post("/_stack/token", json={"tier": "gold"}).status_code == 404


def test_the_log_has_no_body_token_or_share(panel: httpx.Client, api: Api, person: Callable[..., Person]) -> None:
    user = person("pro")
    asked = api.chat(user, question("A secret question"))
    api.http.get("/chat/nothing/messages?before=7", headers=user.headers)
    api.http.get(f"/shared/{TOKEN_OF_A_SHARE}")
    log = panel.get("/_stack/requests")
    shared, messages, chat = log.json()[:3]
    assert set(chat) == {"at", "method", "path", "query", "status", "request_id", "ms"}
    assert (chat["method"], chat["path"], chat["status"]) == ("POST", "/chat", 200)
    assert chat["request_id"] == asked.headers["x-request-id"]
    assert chat["ms"] > 0
    assert (messages["path"], messages["query"], messages["status"]) == ("/chat/nothing/messages", "before=7", 404)
    assert (shared["path"], shared["status"]) == ("/shared/…", 404)
    assert not any(secret in log.text for secret in ("A secret question", user.token, TOKEN_OF_A_SHARE))
    for _ in range(25):
        api.http.get("/plans")
    assert len(panel.get("/_stack/requests").json()) == 20


def test_a_fault_applies_to_the_next_answer_only(panel: httpx.Client, api: Api, person: Callable[..., Person]) -> None:
    user, anybody = person("pro"), Person("", "", "not-a-token")
    assert panel.post("/_stack/fault", json={"directive": "overloaded"}).json() == {"fault": "overloaded"}
    assert api.chat(anybody, question("What is a writ?")).status_code == 401
    assert panel.get("/_stack").json()["fault"] == "overloaded", "no model was asked"
    failed = api.chat(user, question("How did members vote on C-5?"))
    assert (failed.status_code, failed.json()["error"]["code"]) == (503, "provider_overloaded")
    assert panel.get("/_stack").json()["fault"] is None
    assert api.chat(user, question("How did members vote on C-5?")).status_code == 200


def test_a_fault_of_a_user_spares_the_others(panel: httpx.Client, api: Api, person: Callable[..., Person]) -> None:
    user, other = person("pro"), person("pro")
    panel.post("/_stack/fault", json={"directive": "overloaded", "user_id": user.id}).raise_for_status()
    assert panel.get("/_stack").json()["fault"] is None
    assert api.chat(other, question("What is a writ?")).status_code == 200
    assert panel.get("/_stack", params={"user_id": user.id}).json()["fault"] == "overloaded"
    assert api.chat(user, question("What is a writ?")).status_code == 503


def test_a_fault_applies_to_every_step_of_an_answer(
    panel: httpx.Client, api: Api, person: Callable[..., Person]
) -> None:
    panel.post("/_stack/fault", json={"directive": "max-tokens"})
    cut = api.chat(person("pro"), question("What is bill C-5?")).json()
    assert cut["metadata"]["finish_reason"] == "length"
    assert panel.post("/_stack/fault", json={"directive": "no-such-fault"}).status_code == 422
    assert panel.post("/_stack/fault", json={"directive": "drop", "user_id": 1}).status_code == 422
    assert panel.post("/_stack/fault", content=b"[]").status_code == 400


def test_the_clocks_refuse_what_is_no_number_of_days(panel: httpx.Client) -> None:
    for days in (0, -1, 367, 1.5, "1", True, None):
        assert panel.post("/_stack/clock", json={"days": days}).status_code == 422


FOREIGN = {
    "another site": {"origin": "https://evil.example"},
    "a sandboxed frame": {"origin": "null"},
    "another server on this machine": {"origin": "http://localhost:3000"},
    "an image or link of another site": {"sec-fetch-site": "cross-site"},
    "a name that resolves to loopback": {"host": "evil.example:8787"},
}


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN.keys())
def test_pages_of_other_origins_are_refused(panel: httpx.Client, headers: dict[str, str]) -> None:
    panel.post("/_stack/fault", json={"directive": "drop"}).raise_for_status()
    sent = {**headers, "content-type": "text/plain"}  # for which a browser sends no preflight
    refused = [
        panel.get("/_stack", headers=headers),
        panel.get("/_stack/requests", headers=headers),
        panel.post("/_stack/token", content='{"tier": "pro"}', headers=sent),
        panel.post("/_stack/fault", content='{"directive": null}', headers=sent),
        panel.post("/_stack/clock", content='{"days": 1}', headers=sent),
    ]
    assert [answer.status_code for answer in refused] == [403] * 5
    assert panel.get("/_stack").json()["fault"] == "drop"


def test_the_page_and_its_development_server_are_allowed(panel: httpx.Client, stack: Stack) -> None:
    for origin in (stack.info["functions_url"], stack.info["page_url"], "http://localhost:5173"):
        headers = {"origin": origin, "sec-fetch-site": "same-site"}
        assert panel.post("/_stack/token", json={"tier": "free"}, headers=headers).status_code == 200


def preflight(url: str, origin: str) -> httpx.Response:
    """What a browser asks before a traced request with a token."""
    headers = ("authorization", "content-type", "sentry-trace", "baggage", "traceparent", "tracestate")
    asked = {"access-control-request-method": "POST", "access-control-request-headers": ",".join(headers)}
    return httpx.options(url, headers={"origin": origin, **asked})


def test_each_function_has_an_origin_of_its_own(stack: Stack) -> None:
    site, functions = stack.info["page_url"], stack.info["function_urls"]
    config: dict[str, Any] = httpx.get(f"{site}/config.json").json()
    assert config["functions"] == functions
    assert len({site, stack.info["functions_url"], *functions.values()}) == 6
    route = {"chat": "/chat", "keys": "/keys", "checkout": "/checkout", "account": "/usage"}
    for name, url in functions.items():
        assert httpx.get(f"{url}/health").status_code == 200
        others = [httpx.get(f"{url}{path}").status_code for other, path in route.items() if other != name]
        assert others == [404] * 3
        assert preflight(f"{url}{route[name]}", site).headers["access-control-allow-origin"] == site
        assert httpx.get(f"{url}/", headers={"accept": "text/html"}).status_code == 404
    assert all(httpx.get(f"{site}{path}").status_code == 404 for path in route.values())
    assert httpx.get(f"{site}/_stack").status_code == 200
    policy = httpx.get(f"{site}/c/a-chat", headers={"accept": "text/html"}).headers["content-security-policy"]
    assert all(f"http://{urlsplit(url).netloc}" in policy for url in functions.values())


def test_checkout_returns_to_the_separate_page(stack: Stack, person: Callable[..., Person]) -> None:
    urls = {"success_url": f"{stack.info['page_url']}/?paid=1", "cancel_url": "http://localhost:5173/"}
    checkout = f"{stack.info['function_urls']['checkout']}/checkout"
    bought = httpx.post(checkout, json={"plan": "basic", **urls}, headers=person("free").headers, timeout=30)
    assert bought.status_code == 200, bought.text
