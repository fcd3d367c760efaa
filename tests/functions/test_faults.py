"""What every failure of Supabase costs: each status and code, at each kind of call, before and after its effect.

The chat, the account and the webhooks run in this process behind a faulty gateway, with the stack's Postgres and
PostgREST. Each call fails twice: first it is not carried out, then it is and its response is lost. The third attempt is
forwarded.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from unittest import mock

import httpx
import pytest
from starlette.types import ASGIApp

from functions.account import handler as account_handler
from functions.chat import handler as chat_handler
from functions.chat import limits
from functions.webhooks import handler as webhooks_handler
from infra.local.auth import access_token, load_or_create_key
from infra.local.stack import Stack
from tests.api import StateOf, lambda_deadline, question
from tests.billing_kit import BillingStack
from tests.billing_kit import environment as billing_environment
from tests.chat_kit import chat_environment
from tests.conftest import Person
from tests.faulty_gateway import Fault, FaultyGateway, coded, faulty_gateway, page
from tests.functions.webhooks.kit import now, signature

# Everything that is not in the short list of permanent errors. https://docs.postgrest.org/en/stable/references/errors.html
PASSING = [
    *(page(status) for status in (500, 502, 503, 504, 520, 521, 522, 523, 524, 525, 540, 544)),
    *(Fault(f"{status} empty", status) for status in (402, 429, 500, 502, 503)),
    *(Fault(f"{status} without a code", status, '{"message": "No."}') for status in (400, 401, 402, 429, 500, 544)),
    Fault("200 HTML", 200, "<html>Sign in to the network</html>", "text/html"),
    Fault("200 empty", 200, ""),
    Fault("200 of another shape", 200, '{"hello": "world"}'),
    Fault("200 array", 200, "[1]"),
    Fault("no response", 200, "", is_cut=True),
    Fault("half a response", 200, '{"decision": "adm', is_cut=True),
    *(coded(500, code) for code in ("40001", "40P01", "55P03", "57014", "57P01", "XX000", "XX001")),
    *(coded(503, code) for code in ("53300", "53400", "08006", "08003", "PGRST000", "PGRST001", "PGRST002")),
    *(coded(405, code) for code in ("25006",)),
    *(coded(504, code) for code in ("PGRST003",)),
    *(coded(404, code) for code in ("PGRST202", "42883", "42P01")),
    coded(401, ""),
]
VALUES = [coded(400, "22P02"), coded(400, "22021"), coded(409, "23505"), coded(400, "23514")]
PRIVILEGE = [coded(403, "42501")]
TOKEN = [coded(401, "PGRST301"), coded(401, "PGRST303")]

CALLS = {
    "admit": "admit_query",
    "settle": "settle_query",
    "release": "release_query",
    "progress": "note_progress",
    "usage": "usage_summary",
    "claim": "claim_stripe_event",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the caller got, and what was there afterwards."""

    got: str
    charged: int = 0
    kept: int = 0
    holds: int = 0

    def __str__(self) -> str:
        return f"{self.got:28} charged {self.charged}, kept {self.kept}, holds {self.holds}"


ANSWERED = Outcome("200 persisted", charged=1, kept=2)
READ = Outcome("200")
# The expected outcome of each call for a kind of failure. A repetition changes none of the permanent ones.
EXPECTED: dict[str, dict[str, Outcome]] = {
    "passing": {
        "admit": ANSWERED,
        "settle": ANSWERED,
        "release": Outcome("502 provider_error"),
        "progress": ANSWERED,
        "usage": READ,
        "claim": READ,
    },
    "value": {
        "admit": Outcome("500 internal"),
        "settle": Outcome("200 not persisted", charged=1),  # the turn cannot be stored, and is charged
        "release": Outcome("502 provider_error", holds=1),  # it expires
        "progress": ANSWERED,
        "usage": Outcome("500 internal"),
        "claim": Outcome("500 internal"),
    },
    "privilege": {
        "admit": Outcome("500 internal"),
        "settle": Outcome("200 lost", holds=1),
        "release": Outcome("502 provider_error", holds=1),
        "progress": ANSWERED,
        "usage": Outcome("403 forbidden"),
        "claim": Outcome("500 internal"),
    },
    "token": {
        "admit": ANSWERED,  # the token is our own
        "settle": ANSWERED,
        "release": Outcome("502 provider_error"),
        "progress": ANSWERED,
        "usage": Outcome("401 unauthenticated"),
        "claim": READ,
    },
}
FAULTS = {"passing": PASSING, "value": VALUES, "privilege": PRIVILEGE, "token": TOKEN}


@pytest.fixture
def gateway(stack: Stack) -> Iterator[FaultyGateway]:
    """A gateway that fails as planned."""
    with faulty_gateway(stack.info["supabase_url"]) as gateway:
        yield gateway


@asynccontextmanager
async def client_of(app: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an app in this process."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),  # type: ignore[attr-defined]
        httpx.AsyncClient(transport=transport, base_url="http://function", timeout=60) as http,
    ):
        yield http


class Cells:
    """Runs one call of the table with a user of its own."""

    def __init__(
        self, gateway: FaultyGateway, billing: BillingStack, chat: httpx.AsyncClient, account: httpx.AsyncClient,
        webhooks: httpx.AsyncClient, person: Callable[..., Person], state_of: StateOf,
        token_of: Callable[[Person], str],
    ) -> None:  # fmt: skip
        self._token_of = token_of
        self._gateway = gateway
        self._billing = billing
        subscriber = billing.new_user()
        billing.buy(subscriber, plan="basic")
        assert set(billing.deliver()) == {200}
        self._customer = billing.customer_id(subscriber)
        self._chat = chat
        self._account = account
        self._few = asyncio.Semaphore(4)  # the account serves one request at a time on Lambda, with a few threads
        self._webhooks = webhooks
        self._person = person
        self._state_of = state_of

    async def run(self, call: str, kind: str, fault: Fault) -> Outcome:
        """Fail the call, and see what came of it."""
        steps = [(fault, False), (fault, True)] if kind == "passing" else [(fault, False)]
        if call == "claim":
            return await self._claim(steps)
        user = self._person("pro")
        token = self._token_of(user)
        headers = {"authorization": f"Bearer {token}", "accept": "application/json"}
        self._gateway.plan(CALLS[call], token if call == "usage" else user.id, steps)
        if call == "usage":
            async with self._few:
                answer = await self._account.get("/usage", headers=headers)
        else:
            directive = {"release": "[fault:status 500]", "progress": "[fault:slow 0.06]"}.get(call, "")
            body = question(f"Who sits for Ottawa Centre? {directive}")
            if call == "progress":  # one call carries the progress of all answers of a process
                async with client_of(chat_handler.create()) as chat:
                    answer = await chat.post("/chat", json=body, headers=headers)
            else:
                answer = await self._chat.post("/chat", json=body, headers=headers)
        assert not steps, f"{call} was called too few times"
        state = self._state_of(user)
        charged = sum(outcome in ("answered", "stopped") for outcome in state.outcomes)
        return Outcome(describe(answer), charged, len(state.messages), state.holds)

    async def _claim(self, steps: list[tuple[Fault, bool]]) -> Outcome:
        event = self._billing.make_event("customer.subscription.updated", {"customer": self._customer})
        self._gateway.plan(CALLS["claim"], event["id"], steps)
        body = httpx.Request("POST", "http://x", json=event).content
        answer = await self._webhooks.post(
            "/webhooks/stripe", content=body, headers={"stripe-signature": signature(body, now())}
        )
        assert not steps, "claim was called too few times"
        return Outcome(describe(answer))


def describe(answer: httpx.Response) -> str:
    """The status, and the error's code or what the metadata say."""
    document = answer.json()
    if "error" in document:
        return f"{answer.status_code} {document['error']['code']}"
    if "metadata" not in document:
        return str(answer.status_code)
    metadata = document["metadata"]
    return f"200 {metadata.get('outcome') or ('persisted' if metadata['persisted'] else 'not persisted')}"


@pytest.fixture
def token_of(stack: Stack, gateway: FaultyGateway) -> Callable[[Person], str]:
    """The access token of a user, issued behind the gateway."""
    key = load_or_create_key(stack.config.folder / "signing-key.pem")
    issuer = f"{gateway.url}/auth/v1"
    return lambda user: access_token(key, issuer=issuer, user_id=user.id, email=user.email)


@pytest.mark.parametrize("is_over_in_time", [True, False], ids=["short", "long"])
async def test_settlement_goes_on_until_the_deadline(
    stack: Stack, gateway: FaultyGateway, person: Callable[..., Person], state_of: StateOf,
    token_of: Callable[[Person], str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    is_over_in_time: bool,
) -> None:  # fmt: skip
    """Over several rounds of attempts. Comments keep the stream open meanwhile. Then the answer is lost."""
    monkeypatch.setattr(limits, "SETTLE_S", 0.3)
    monkeypatch.setattr(limits, "SETTLE_PAUSE_S", 0.05)
    monkeypatch.setattr(limits, "KEEP_ALIVE_S", 0.2)
    monkeypatch.setattr(limits, "DEADLINE_MARGIN_S", 2.0)
    user = person("pro")
    steps = [(page(544), False)] * (12 if is_over_in_time else 1000)
    gateway.plan("settle_query", user.id, steps)
    headers = {"authorization": f"Bearer {token_of(user)}", **lambda_deadline(30 if is_over_in_time else 5.5)}
    with mock.patch.dict(os.environ, {**chat_environment(stack), "SUPABASE_URL": gateway.url}):
        async with client_of(chat_handler.create()) as chat:
            streamed = await chat.post("/chat", json=question("Who sits for Ottawa Centre?"), headers=headers)
    lines = streamed.text.split("\n")
    metadata = json.loads(next(line for line in lines if '"finish"' in line).removeprefix("data: "))["messageMetadata"]
    state = state_of(user)
    assert any(line.startswith(":") for line in lines)
    assert lines[-3] == "data: [DONE]"
    if is_over_in_time:
        assert (metadata.get("outcome"), metadata["persisted"]) == (None, True)
        assert (state.outcomes, len(state.messages), state.holds) == (["answered"], 2, 0)
    else:
        assert (metadata["outcome"], metadata["persisted"], metadata["charged_usd"]) == ("lost", False, None)
        assert (state.outcomes, state.messages, state.holds) == ([], [], 1)
        assert '"HoldsLeftToExpire":[1.0]' in capsys.readouterr().out.replace(" ", "")


async def test_every_failure_of_the_database_has_its_outcome(
    stack: Stack, gateway: FaultyGateway, billing: BillingStack, person: Callable[..., Person], state_of: StateOf,
    token_of: Callable[[Person], str],
) -> None:  # fmt: skip
    environment = {
        **billing_environment(stack, billing.fake.url), **chat_environment(stack), "SUPABASE_URL": gateway.url,
    }  # fmt: skip
    rows, wrong = [], []
    with mock.patch.dict(os.environ, environment):
        async with (
            client_of(chat_handler.create()) as chat,
            client_of(account_handler.create()) as account,
            client_of(webhooks_handler.create()) as webhooks,
        ):
            cells = Cells(gateway, billing, chat, account, webhooks, person, state_of, token_of)
            for call in CALLS:
                named = [(kind, fault) for kind, faults in FAULTS.items() for fault in faults]
                outcomes = await asyncio.gather(*(cells.run(call, kind, fault) for kind, fault in named))
                for (kind, fault), outcome in zip(named, outcomes, strict=True):
                    rows.append(f"{call:9} {fault.name:22} {outcome}")
                    if outcome != EXPECTED[kind][call]:
                        wrong.append(f"{rows[-1]}\n{'expected':32} {EXPECTED[kind][call]}")
    sys.stdout.write("\n".join(rows))
    assert wrong == [], "\n".join(wrong)
