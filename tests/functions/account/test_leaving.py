"""Export and deletion by the user: the same data and the same steps as the jobs."""

import base64
import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from stripe import Price

from functions.account import account
from functions.account.handler import create
from functions.common.billing.catalog import Product, matches
from functions.common.errors import Unavailable
from functions.common.leaving.auth_admin import AuthAdmin
from functions.common.leaving.export import PARTS
from infra.local.auth import access_token, load_or_create_key
from infra.local.postgres import ROOT
from infra.local.stack import PASSWORD
from tests.api import question
from tests.billing_kit import SITE, BillingStack, environment, function_with, stripe_get
from tests.conftest import Person
from tests.functions.leaving_kit import tables_that_name, user_with_everything
from tests.functions.maintenance.kit import findings
from tests.sql.metering import admit, settle, turn, value

SignUp = Callable[[str], Person]


@pytest.fixture(scope="module")
def http(billing: BillingStack) -> Iterator[httpx.Client]:
    """The account function with the Stripe stand-in of the tests."""
    with function_with(billing, create) as client:
        yield client


def auth(billing: BillingStack, path: str, **body: str) -> httpx.Response:
    """POST to Supabase Auth."""
    info = billing.stack.info
    return httpx.post(f"{info['supabase_url']}/auth/v1/{path}", json=body, headers={"apikey": info["publishable_key"]})


def delete(http: httpx.Client, user: Person, confirm: str | None = None) -> httpx.Response:
    """DELETE /account."""
    body = {"confirm": user.email if confirm is None else confirm}
    return http.request("DELETE", "/account", json=body, headers=user.headers)


def refused(response: httpx.Response) -> tuple[int, str]:
    """The status and the code of an error."""
    return response.status_code, response.json()["error"]["code"]


def forget_export(billing: BillingStack, user: Person) -> None:
    """As if a minute had passed."""
    billing.db.execute("update public.user_subscriptions set exported_at = null where user_id = %s", (user.id,))


def test_a_user_exports_everything(billing: BillingStack, http: httpx.Client) -> None:
    user = user_with_everything(billing)
    exports = []
    for encoding in ("br, GZIP ; q=0.5", "gzip;q=0"):
        exports.append(http.get("/account/export", headers={**user.headers, "accept-encoding": encoding}))
        repeated = http.get("/account/export", headers=user.headers)
        assert (refused(repeated), repeated.headers["retry-after"]) == ((429, "too_many_requests"), "60")
        forget_export(billing, user)
    assert [response.headers.get("content-encoding") for response in exports] == ["gzip", None]
    first, second = (
        {**one.json(), "subscription": [{**one.json()["subscription"][0], "exported_at": None}]} for one in exports
    )
    assert first == second
    exported = json.loads(exports[0].text, parse_float=lambda text: pytest.fail(f"{text} is a float"))
    assert exported.keys() == PARTS.keys()
    assert exported["account"][0]["email"] == user.email
    assert {part for part, rows in exported.items() if not rows} == {"refusals", "reversals"}
    assert "Ada Lovelace" not in exports[0].text  # the operator, who is another person
    assert not {"encrypted_key", "encrypted_password"} & {name for row in exported["keys"] for name in row}


LAMBDA = """
import json, sys
from functions.account.handler import handler
print(json.dumps(handler(json.load(sys.stdin), None)))
"""


def test_lambda_sends_the_compressed_export_as_base64(billing: BillingStack) -> None:
    user = billing.new_user("pro")
    http = {"method": "GET", "path": "/account/export", "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1"}
    event = {
        "version": "2.0", "rawPath": "/account/export", "rawQueryString": "", "isBase64Encoded": False,
        "headers": {**user.headers, "accept-encoding": "gzip", "host": "abc.lambda-url.ca-central-1.on.aws"},
        "requestContext": {"http": http},
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", LAMBDA], input=json.dumps(event), cwd=ROOT, capture_output=True, text=True, timeout=60,
        env={**os.environ, **environment(billing.stack, billing.fake.url)}, check=True,
    )  # fmt: skip
    answer = json.loads(done.stdout.splitlines()[-1])
    assert (answer["statusCode"], answer["headers"]["content-encoding"], answer["isBase64Encoded"]) == (
        200,
        "gzip",
        True,
    )
    exported = json.loads(gzip.decompress(base64.b64decode(answer["body"])))
    assert exported["account"][0]["id"] == user.id


def test_an_export_that_is_too_large_for_lambda_is_refused(
    billing: BillingStack, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = billing.new_user()
    monkeypatch.setattr(account, "EXPORT_LIMIT", 300)
    for encoding in ("gzip", "identity"):
        headers = {**user.headers, "accept-encoding": encoding}
        answers = [http.get("/account/export", headers=headers) for _ in range(2)]
        assert [refused(answer) for answer in answers] == [(413, "too_large"), (429, "too_many_requests")]
        assert "In a minute, accept it compressed" in answers[0].json()["error"]["message"]
        assert "was requested less than a minute ago" in answers[1].json()["error"]["message"]  # nothing was sent
        forget_export(billing, user)


def test_nothing_is_left_of_a_user_who_deletes_their_account(
    billing: BillingStack, http: httpx.Client, sign_up: SignUp
) -> None:
    user = user_with_everything(billing, sign_up("free"))
    start = int(billing.subscription_row(user)["current_period_start"].timestamp())
    billing.add_overage(user, 40, start + 60, start)
    customer, subscription = billing.customer_id(user), billing.subscription_row(user)["stripe_subscription_id"]
    billing.checkout_page(user, pack="pack_100")  # open while the account is deleted
    token = value(billing.db, "select token from public.shared_conversations where user_id = %s", user.id)
    queries = value(billing.db, "select coalesce(sum(queries), 0) from public.retained_usage")
    assert len(tables_that_name(billing, user)) >= 12
    user = Person(user.id, user.email, auth(billing, "token?grant_type=password", email=user.email,
                                            password=PASSWORD).json()["access_token"])  # fmt: skip
    assert http.get(f"/shared/{token}").status_code == 200

    deleted = delete(http, user, confirm=user.email.upper())
    assert (deleted.status_code, deleted.json()) == (200, {"deleted": True})

    assert tables_that_name(billing, user) == []
    assert value(billing.db, "select sum(queries) from public.retained_usage") == queries + 86
    assert stripe_get(billing, f"subscriptions/{subscription}")["status"] == "canceled"
    (last,) = stripe_get(billing, "invoices", customer=customer, limit=1)["data"]
    assert (last["total"], last["status"] != "void") == (100, True)
    assert stripe_get(billing, "checkout/sessions", customer=customer, status="open")["data"] == []
    theirs = stripe_get(billing, "invoiceitems", customer=customer)["data"]
    assert findings(billing, user, {item["metadata"]["overage_invoice_item"] for item in theirs}) == set()
    assert set(billing.deliver()) <= {200}
    signed_in = auth(billing, "token?grant_type=password", email=user.email, password=PASSWORD)
    assert (signed_in.status_code, signed_in.json()["error_code"]) == (400, "invalid_credentials")
    assert http.get(f"/shared/{token}").status_code == 404


def test_a_deletion_that_is_killed_after_auth_leaves_nothing(
    billing: BillingStack, http: httpx.Client, sign_up: SignUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = sign_up("free")
    delete_user = AuthAdmin.delete_user

    async def fail_after(auth: AuthAdmin, user_id: str) -> bool:
        assert await delete_user(auth, user_id)
        raise Unavailable(upstream="killed")

    monkeypatch.setattr(AuthAdmin, "delete_user", fail_after)
    assert delete(http, user).status_code == 503
    assert tables_that_name(billing, user) == []


def test_what_is_bought_during_a_deletion_is_ended_and_reported(
    billing: BillingStack, http: httpx.Client, sign_up: SignUp, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    user = sign_up("free")
    billing.checkout_page(user, plan="pro")
    customer = billing.customer_id(user)
    delete_user = AuthAdmin.delete_user

    async def buy_before(auth: AuthAdmin, user_id: str) -> bool:
        billing.buy(user, plan="pro")
        billing.buy(user, pack="pack_100")
        return await delete_user(auth, user_id)

    monkeypatch.setattr(AuthAdmin, "delete_user", buy_before)
    assert delete(http, user).status_code == 200
    capsys.readouterr()
    assert set(billing.deliver()) == {200}
    (subscription,) = stripe_get(billing, "subscriptions", customer=customer, status="all")["data"]
    assert subscription["status"] == "canceled"
    assert capsys.readouterr().out.count('"PaymentsWithoutUser":[1.0]') == 2


@pytest.mark.parametrize("what", [{"pack": "pack_100"}, {"plan": "pro"}])
def test_no_page_that_was_opened_during_a_deletion_can_be_paid(
    billing: BillingStack, http: httpx.Client, sign_up: SignUp, monkeypatch: pytest.MonkeyPatch, what: dict[str, str]
) -> None:
    before, after = sign_up("free"), sign_up("free")
    pages = {user.id: billing.checkout_page(user, **what) for user in (before, after)}
    customers = [billing.customer_id(user) for user in (before, after)]
    delete_user = AuthAdmin.delete_user

    async def open_a_page(auth: AuthAdmin, user_id: str) -> bool:
        if user_id == before.id:
            assert billing.checkout_page(before, **what) != pages[before.id]
        return await delete_user(auth, user_id)

    monkeypatch.setattr(AuthAdmin, "delete_user", open_a_page)
    assert delete(http, before).status_code == 200

    def delete_the_account(price: Price, product: Product) -> bool:
        assert delete(http, after).status_code == 200
        return matches(price, product)

    monkeypatch.setattr("functions.checkout.checkout.matches", delete_the_account)
    other = {"success_url": f"{SITE}/done", "cancel_url": f"{SITE}/other"}
    assert refused(billing.call_checkout(after, "/checkout", **other, **what)) == (401, "unauthenticated")
    for customer in customers:
        sessions = stripe_get(billing, "checkout/sessions", customer=customer)["data"]
        assert [session["status"] for session in sessions] == ["expired", "expired"]


def test_the_token_of_a_deleted_account_is_refused_everywhere(
    billing: BillingStack, http: httpx.Client, sign_up: SignUp
) -> None:
    user = sign_up("pro")
    assert delete(http, user).status_code == 200
    url = {"success_url": "http://localhost:3000/", "cancel_url": "http://localhost:3000/"}
    calls: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/chat", question("Who?")),
        ("GET", "/usage", {}),
        ("GET", "/keys", {}),
        ("PUT", "/keys/openai", {"api_key": "sk-0123456789abcdef"}),
        ("POST", "/checkout", {"plan": "basic", **url}),
        ("POST", "/portal", {"return_url": url["cancel_url"]}),
        ("PATCH", "/overage", {"allow_overages": True}),
        ("POST", "/chat/1/stop", {}),
        ("GET", "/chat/1/stream", {}),
        ("GET", "/chat/1/messages", {}),
        ("POST", "/chat/1/share", {}),
        ("DELETE", "/chat/1/share", {}),
        ("DELETE", "/keys/openai", {}),
        ("POST", "/keys/openai/validate", {}),
        ("PUT", "/messages/0198c0de-0000-7000-8000-000000000000/feedback", {"rating": "up"}),
        ("GET", "/account/export", {}),
        ("DELETE", "/account", {"confirm": user.email}),
    ]
    with httpx.Client(base_url=billing.stack.info["functions_url"], timeout=30) as functions:
        for method, path, body in calls:
            answer = functions.request(method, path, json=body, headers=user.headers)
            assert refused(answer) == (401, "unauthenticated"), (method, path)


def test_a_deletion_needs_a_recent_sign_in(billing: BillingStack, http: httpx.Client, sign_up: SignUp) -> None:
    """Refreshing the token is no sign-in."""
    user = sign_up("free")
    session = auth(billing, "token?grant_type=password", email=user.email, password=PASSWORD).json()
    billing.db.execute(
        "update auth.sessions set created_at = now() - interval '6 minutes' where user_id = %s", (user.id,)
    )
    refreshed = auth(billing, "token?grant_type=refresh_token", refresh_token=session["refresh_token"]).json()
    old = Person(user.id, user.email, refreshed["access_token"])
    key = load_or_create_key(billing.stack.config.folder / "signing-key.pem")
    issuer, now = f"{billing.stack.info['supabase_url']}/auth/v1", int(time.time())
    claims: list[Any] = [
        None, [], ["password"], [{"method": "token_refresh", "timestamp": now}],
        [{"method": "password", "timestamp": "now"}], [{"method": "password", "timestamp": now - 301}],
    ]  # fmt: skip
    others = [access_token(key, issuer=issuer, user_id=user.id, email=user.email, amr=amr) for amr in claims]
    for token in (old.token, *others):
        assert refused(delete(http, Person(user.id, user.email, token))) == (403, "forbidden")
    assert refused(delete(http, user, confirm="other@example.test")) == (422, "invalid_request")
    assert refused(delete(http, user, confirm="")) == (422, "invalid_request")
    assert billing.subscription_row(user)["tier"] == "free"
    assert delete(http, user).status_code == 200


def test_a_signed_out_session_deletes_nothing(billing: BillingStack, http: httpx.Client, sign_up: SignUp) -> None:
    user = sign_up("free")
    headers = {**user.headers, "apikey": billing.stack.info["publishable_key"]}
    assert httpx.post(f"{billing.stack.info['supabase_url']}/auth/v1/logout", headers=headers).status_code == 204
    assert refused(delete(http, user)) == (401, "unauthenticated")
    assert billing.subscription_row(user)["tier"] == "free"


def test_who_owes_overage_that_cannot_be_billed_keeps_everything(billing: BillingStack, http: httpx.Client) -> None:
    user = billing.new_user("basic")  # without a customer at Stripe
    settle(billing.db, admit(billing.db, user.id)["hold_id"], turn=turn("chat", "q1"))
    billing.add_overage(user, 3, billing.fake.now, billing.fake.now)
    answer = delete(http, user)
    assert (refused(answer), answer.json()["error"]["reason_code"]) == ((403, "forbidden"), "overage_owed")
    assert value(billing.db, "select count(*) from public.conversations where user_id = %s", user.id) == 1
    assert billing.subscription_row(user)["tier"] == "basic"


def test_who_has_an_open_overage_invoice_pays_before_deleting(
    billing: BillingStack, http: httpx.Client, sign_up: SignUp
) -> None:
    user = sign_up("free")
    billing.buy(user, plan="usage_only")
    assert set(billing.deliver()) == {200}
    start = int(billing.subscription_row(user)["current_period_start"].timestamp())
    billing.add_overage(user, 41, start + 60, start)
    billing.fake.control(f"/_customers/{billing.customer_id(user)}/card", works=False)
    for _ in range(2):
        answer = delete(http, user)
        error = answer.json()["error"]
        assert (answer.status_code, error["reason_code"], error["action"]) == (402, "deletion_unpaid", "pay_invoice")
    assert billing.subscription_row(user)["stripe_subscription_id"] is None
    billing.fake.http.post(error["url"], data={"way": "good_card"})
    assert delete(http, user).status_code == 200


def test_a_deletion_that_stripe_interrupts_is_finished_by_the_next(
    billing: BillingStack, http: httpx.Client, sign_up: SignUp
) -> None:
    user = sign_up("free")
    billing.buy(user, plan="basic")
    assert set(billing.deliver()) == {200}
    billing.fake.control("/_faults", path="/v1/subscriptions/", method="DELETE", status=500, times=10)
    try:
        assert refused(delete(http, user)) == (503, "payment_unavailable")
    finally:
        billing.fake.http.delete("/_faults")
    assert billing.subscription_row(user)["tier"] == "basic"
    assert delete(http, user).status_code == 200
    assert tables_that_name(billing, user) == []
