"""Chat with a user's own key: the user's account pays and the plan does not. Problems with the key or the account are
reported, and the platform's account does not pay instead."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from typing import Any
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest

from functions.chat import limits
from functions.chat.chat import Chat
from functions.chat.providers import Event, Finished, Message, Prompt, Providers
from functions.chat.providers.faults import Faults
from functions.chat.request import ChatRequest
from functions.chat.settings import ChatSettings
from functions.common.errors import (
    AppError,
    ByokBalanceExhausted,
    ByokKeyRejected,
    ProviderError,
    ProviderOverloaded,
    ProviderTimeout,
    TooManyRequests,
)
from functions.common.settings import load
from functions.common.vault import PlainKey
from infra.local.stack import Stack
from tests.api import Api, StateOf, UserState, question
from tests.chat_kit import chat_environment, running_chat
from tests.conftest import Person
from tests.own_keys import store_key

NewPerson = Callable[..., Person]
Db = psycopg.Connection[dict[str, Any]]

NAMES = {"anthropic": "Anthropic", "openai": "OpenAI"}
PROVIDERS = list(NAMES)
OTHER = {"anthropic": "openai", "openai": "anthropic"}
# The last four characters of the platform's key, in the requests that the stand-in recorded.
PLATFORM = "d-in"
NOTHING_USED = UserState(["failed"], 0, [], 0, 0, "0.000000")


class OwnKeys:
    """Stores users' own keys: through the API, or encrypted directly into the database."""

    def __init__(self, api: Api, db: Db, stack: Stack) -> None:
        self.api = api
        self.db = db
        self.stack = stack

    def put(self, person: Person, provider: str) -> str:
        """PUT /keys with a key that the provider accepts. Returns its last four characters."""
        text = f"sk-own-{uuid.uuid4().hex}"
        response = self.api.http.put(f"/keys/{provider}", json={"api_key": text}, headers=person.headers)
        assert (response.status_code, response.json()["status"]) == (200, "valid")
        return text[-4:]

    def store(self, person: Person, provider: str, kind: str, *, is_valid: bool = True) -> str:
        """Store a key that was never checked. The stand-in reacts to `kind`. Returns the last four characters."""
        key = f"sk-own-{kind}-{uuid.uuid4().hex}"
        store_key(self.stack, person, key, provider, is_valid=is_valid)
        return key[-4:]

    def delete(self, person: Person, provider: str) -> None:
        """DELETE /keys."""
        response = self.api.http.delete(f"/keys/{provider}", headers=person.headers)
        assert response.json() == {"deleted": True}

    def status(self, person: Person, provider: str) -> str:
        """The key's status in GET /keys."""
        keys = self.api.http.get("/keys", headers=person.headers).json()["keys"]
        (status,) = (key["status"] for key in keys if key["provider"] == provider)
        return str(status)

    def row(self, person: Person, provider: str) -> dict[str, Any]:
        """The row of user_api_keys."""
        (row,) = self.db.execute(
            "select * from public.user_api_keys where user_id = %s and provider = %s", (person.id, provider)
        ).fetchall()
        return row

    def ledger(self, person: Person) -> dict[str, Any]:
        """The user's only row of usage_logs."""
        (row,) = self.db.execute("select * from public.usage_logs where user_id = %s", (person.id,)).fetchall()
        return row


@pytest.fixture
def own_keys(api: Api, stack: Stack, stack_db: Db) -> OwnKeys:
    """Stores users' own keys."""
    return OwnKeys(api, stack_db, stack)


class Accounts:
    """Lists the accounts that were asked for an answer since this was created: (provider, last four of the key)."""

    def __init__(self, api: Api) -> None:
        self._url = f"{api.model_url}/_requests"
        assert httpx.delete(self._url).status_code == 204

    @property
    def asked(self) -> list[tuple[str, str]]:
        return [
            (entry["provider"], entry["api_key_last4"])
            for entry in httpx.get(self._url).json()
            if entry["path"] in ("/v1/messages", "/v1/responses")
        ]


def failure(response: httpx.Response) -> tuple[int, str, str | None]:
    """The status, the code and the Retry-After of an error."""
    error = response.json()["error"]
    assert error["request_id"] == response.headers["x-request-id"]
    return response.status_code, error["code"], response.headers.get("retry-after")


# Answered -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("streams", [True, False])
def test_an_own_key_pays_instead_of_the_plan(
    api: Api, person: NewPerson, state_of: StateOf, own_keys: OwnKeys, provider: str, streams: bool
) -> None:
    user = person("basic")
    last4 = own_keys.put(user, provider)
    before, accounts = api.usage(user), Accounts(api)
    body = question("Who has the floor?", provider=provider)
    metadata = api.stream(user, body).metadata if streams else api.chat(user, body).json()["metadata"]
    assert (metadata["provider"], metadata["funding"], metadata["charged_usd"]) == (provider, "byok", 0)
    assert (metadata["remaining"], metadata["resets_at"], metadata["persisted"]) == (None, None, True)
    assert metadata["cost_usd"] > 0
    assert accounts.asked == [(provider, last4)]
    row = own_keys.ledger(user)
    assert (row["funding"], row["outcome"], row["used_byo_key"]) == ("byok", "answered", True)
    assert (row["counted_against_quota"], row["was_overage"], row["overage_charge"]) == (False, False, 0)
    after = state_of(user)
    assert (after.holds, after.quota_used, after.lifetime_used, after.overage) == (0, 0, 0, "0.000000")
    usage = api.usage(user)
    assert [usage[paid] for paid in ("included", "overage", "credits")] == [
        before[paid] for paid in ("included", "overage", "credits")
    ]
    assert usage["today"]["queries"] == 1


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_own_key_pays_where_the_plan_would_refuse(
    api: Api, person: NewPerson, state_of: StateOf, own_keys: OwnKeys, provider: str
) -> None:
    user = person("usage_only", overage_limit=0, stripe_subscription_id=f"sub_{uuid.uuid4()}")
    assert api.chat(user, question("Without a key")).status_code == 429
    own_keys.put(user, provider)
    assert api.chat(user, question("With one")).json()["metadata"]["funding"] == "byok"
    assert state_of(user).overage == "0.000000"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_conversation_with_an_own_key_is_stored_and_continued(
    api: Api, person: NewPerson, state_of: StateOf, own_keys: OwnKeys, stack_db: Db, provider: str
) -> None:
    user = person("basic")
    last4 = own_keys.put(user, provider)
    chat_id, second = str(uuid.uuid4()), f"And second? {uuid.uuid4()}"
    first = api.chat(user, question("What is first reading?", chat_id=chat_id, provider=provider)).json()
    api.chat(user, question(second, chat_id=chat_id, provider=provider))
    (asked,) = api.provider_requests(second)
    assert [message["text"] for message in asked["messages"]] == [
        "What is first reading?",
        first["message"]["parts"][1]["text"],
        second,
    ]
    assert asked["api_key_last4"] == last4
    assert [role for role, _ in state_of(user).messages] == ["user", "assistant", "user", "assistant"]
    stored = stack_db.execute(
        "select m.used_byo_key from public.messages m join public.conversations c on c.id = m.conversation_id"
        " where c.user_id = %s and m.role = 'assistant'",
        (user.id,),
    ).fetchall()
    assert stored == [{"used_byo_key": True}] * 2


def test_an_own_key_pays_once_for_a_repeated_message(api: Api, person: NewPerson, own_keys: OwnKeys) -> None:
    user = person("basic")
    last4 = own_keys.put(user, "anthropic")
    accounts, body = Accounts(api), question("Only once")
    first, second = api.chat(user, body).json(), api.chat(user, body).json()
    assert second["message"] == first["message"]
    assert (second["metadata"]["funding"], second["metadata"]["charged_usd"]) == ("byok", 0)
    assert accounts.asked == [("anthropic", last4)]


def test_anthropics_key_is_preferred_to_openais(api: Api, person: NewPerson, own_keys: OwnKeys) -> None:
    user = person("basic")
    openais, anthropics = own_keys.put(user, "openai"), own_keys.put(user, "anthropic")
    accounts = Accounts(api)
    assert api.chat(user, question("First")).json()["metadata"]["provider"] == "anthropic"
    own_keys.delete(user, "anthropic")
    assert api.chat(user, question("Second")).json()["metadata"]["provider"] == "openai"
    own_keys.delete(user, "openai")
    metadata = api.chat(user, question("Third")).json()["metadata"]
    assert (metadata["provider"], metadata["funding"]) == ("anthropic", "included")
    assert accounts.asked == [("anthropic", anthropics), ("openai", openais), ("anthropic", PLATFORM)]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_own_key_does_not_pay_for_the_other_provider(
    api: Api, person: NewPerson, state_of: StateOf, own_keys: OwnKeys, provider: str
) -> None:
    user = person("basic")
    own_keys.put(user, provider)
    accounts = Accounts(api)
    metadata = api.chat(user, question("Over there", provider=OTHER[provider])).json()["metadata"]
    assert (metadata["provider"], metadata["funding"]) == (OTHER[provider], "included")
    assert accounts.asked == [(OTHER[provider], PLATFORM)]
    assert state_of(user).quota_used == 1
    assert own_keys.ledger(user)["used_byo_key"] is False


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_stored_key_is_not_used_after_a_downgrade(
    api: Api, person: NewPerson, state_of: StateOf, own_keys: OwnKeys, stack_db: Db, provider: str
) -> None:
    user = person("basic")
    own_keys.put(user, provider)
    stack_db.execute("update public.user_subscriptions set tier = 'free' where user_id = %s", (user.id,))
    accounts = Accounts(api)
    assert api.chat(user, question("Since then", provider=provider)).json()["metadata"]["funding"] == "included"
    assert accounts.asked == [(provider, PLATFORM)]
    assert state_of(user).lifetime_used == 1


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_unchecked_key_becomes_valid_with_its_first_answer(
    api: Api, person: NewPerson, own_keys: OwnKeys, provider: str
) -> None:
    user = person("basic")
    own_keys.store(user, provider, "good", is_valid=False)
    assert own_keys.status(user, provider) == "unchecked"
    assert api.chat(user, question("Hi [fault:drop]", provider=provider)).status_code == 502
    assert own_keys.status(user, provider) == "unchecked"
    assert api.chat(user, question("Hi", provider=provider)).status_code == 200
    assert own_keys.status(user, provider) == "valid"
    assert own_keys.row(user, provider)["last_validated_at"] is not None


# Rejected keys -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("kind", "fault", "is_valid"),
    [("invalid", "", True), ("invalid", "", False), ("good", "[fault:status 401]", True)],
    ids=["a key", "an unchecked key", "401"],
)
def test_a_rejected_key_is_reported_and_not_used_again(
    api: Api,
    person: NewPerson,
    state_of: StateOf,
    own_keys: OwnKeys,
    provider: str,
    kind: str,
    fault: str,
    is_valid: bool,
) -> None:
    user = person("basic")
    last4 = own_keys.store(user, provider, kind, is_valid=is_valid)
    accounts = Accounts(api)
    refused = api.http.post("/chat", json=question(f"Hi {fault}", provider=provider), headers=user.headers)
    assert failure(refused) == (422, "byok_key_rejected", None)
    sentence = refused.json()["error"]["message"]
    assert sentence == (
        f"{NAMES[provider]} does not accept your own key. Store another one, or delete it to use your plan's queries."
    )
    assert accounts.asked == [(provider, last4)]  # never the platform's account
    assert state_of(user) == NOTHING_USED
    assert own_keys.ledger(user)["funding"] == "byok"
    row = own_keys.row(user, provider)
    assert (row["is_active"], row["validation_error"]) == (False, sentence)
    assert (row["last_validated_at"] is not None) == is_valid
    assert own_keys.status(user, provider) == "invalid"

    metadata = api.chat(user, question("Next", provider=provider)).json()["metadata"]
    assert (metadata["provider"], metadata["funding"]) == (provider, "included")
    assert accounts.asked == [(provider, last4), (provider, PLATFORM)]
    assert state_of(user).quota_used == 1


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_403_says_nothing_against_the_key(api: Api, person: NewPerson, own_keys: OwnKeys, provider: str) -> None:
    user = person("basic")
    last4 = own_keys.put(user, provider)
    accounts = Accounts(api)
    refused = api.chat(user, question("Hi [fault:first-only status 403]", provider=provider))
    assert failure(refused) == (502, "provider_error", None)
    assert "your key is kept" in refused.json()["error"]["message"]
    assert own_keys.status(user, provider) == "valid"
    assert api.chat(user, question("Next", provider=provider)).json()["metadata"]["funding"] == "byok"
    assert accounts.asked == [(provider, last4)] * 2


def test_the_other_providers_key_is_used_after_a_rejection(api: Api, person: NewPerson, own_keys: OwnKeys) -> None:
    user = person("basic")
    rejected, good = own_keys.store(user, "anthropic", "invalid"), own_keys.put(user, "openai")
    accounts = Accounts(api)
    assert failure(api.chat(user, question("Hi")))[:2] == (422, "byok_key_rejected")
    assert api.chat(user, question("Hi")).json()["metadata"]["funding"] == "byok"
    assert accounts.asked == [("anthropic", rejected), ("openai", good)]


def test_a_message_refused_for_its_key_may_be_sent_again(
    api: Api, person: NewPerson, state_of: StateOf, own_keys: OwnKeys
) -> None:
    user = person("basic")
    own_keys.store(user, "anthropic", "invalid")
    body = question("Hi")
    assert api.chat(user, body).status_code == 422
    own_keys.put(user, "anthropic")
    assert api.chat(user, body).json()["metadata"]["funding"] == "byok"
    assert state_of(user).outcomes == ["failed", "answered"]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_rejection_does_not_apply_to_a_newer_key(
    api: Api, person: NewPerson, own_keys: OwnKeys, eventually: Callable[..., None], provider: str
) -> None:
    user = person("basic")
    old = own_keys.put(user, provider)
    accounts = Accounts(api)
    body = question("Hi [fault:stall-before 2] [fault:status 401]", provider=provider)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(api.chat, user, body)
        eventually(lambda: accounts.asked == [(provider, old)])
        own_keys.put(user, provider)
        assert failure(answer.result())[:2] == (422, "byok_key_rejected")
    assert own_keys.status(user, provider) == "valid"


# The account cannot pay now -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_account_without_credit_is_reported_and_keeps_its_key(
    api: Api, person: NewPerson, state_of: StateOf, own_keys: OwnKeys, provider: str
) -> None:
    user = person("basic")
    last4 = own_keys.store(user, provider, "exhausted")
    stored, accounts = own_keys.row(user, provider), Accounts(api)
    for _ in range(2):
        refused = api.chat(user, question("Hi", provider=provider))
        assert failure(refused) == (402, "byok_balance_exhausted", None)
        assert NAMES[provider] in refused.json()["error"]["message"]
    assert accounts.asked == [(provider, last4)] * 2
    assert state_of(user) == UserState(["failed", "failed"], 0, [], 0, 0, "0.000000")
    assert own_keys.row(user, provider) == stored


# Failures before the first byte, and the response to the owner of the account. Compare test_chat_endings.py: only the
# rate limit differs from the platform's account.
BEFORE = [
    ("status 429 7", 429, "too_many_requests", "7"),
    ("status 429 9000", 429, "too_many_requests", None),
    ("status 429", 429, "too_many_requests", None),
    ("status 400", 502, "provider_error", None),
    ("status 500", 502, "provider_error", None),
    ("status 503 7", 503, "provider_overloaded", "7"),
    ("status 504", 504, "provider_timeout", None),
    ("overloaded", 503, "provider_overloaded", None),
]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(("fault", "status", "code", "retry_after"), BEFORE)
def test_the_platform_does_not_pay_if_an_own_account_fails(
    api: Api,
    person: NewPerson,
    state_of: StateOf,
    own_keys: OwnKeys,
    provider: str,
    fault: str,
    status: int,
    code: str,
    retry_after: str | None,
) -> None:
    user = person("basic")
    last4 = own_keys.put(user, provider)
    stored, accounts = own_keys.row(user, provider), Accounts(api)
    response = api.http.post("/chat", json=question(f"Hi [fault:{fault}]", provider=provider), headers=user.headers)
    assert failure(response) == (status, code, retry_after)
    attempts = 2 if fault in ("status 500", "overloaded") else 1  # a failure of the provider without a long Retry-After
    assert accounts.asked == [(provider, last4)] * attempts
    assert state_of(user) == NOTHING_USED
    assert own_keys.row(user, provider) == stored


@pytest.mark.parametrize("provider", PROVIDERS)
def test_only_the_accounts_owner_learns_of_a_rate_limit(
    api: Api, person: NewPerson, own_keys: OwnKeys, provider: str
) -> None:
    owner, another = person("basic"), person("basic")
    own_keys.put(owner, provider)
    body = question("Hi [fault:status 429 7]", provider=provider)
    mine, ours = api.chat(owner, body), api.chat(another, body)
    assert failure(mine) == (429, "too_many_requests", "7")
    assert failure(ours) == (503, "provider_overloaded", "7")
    assert f"Your own {NAMES[provider]} account" in mine.json()["error"]["message"]
    assert "rate limit" not in ours.json()["error"]["message"]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("fault", ["drop", "early-end", "bad-json", "error-event", "failed", "empty"])
def test_an_interrupted_answer_ends_in_an_error_without_charge(
    api: Api, person: NewPerson, state_of: StateOf, own_keys: OwnKeys, provider: str, fault: str
) -> None:
    user = person("basic")
    last4 = own_keys.put(user, provider)
    stored, accounts = own_keys.row(user, provider), Accounts(api)
    streamed = api.stream(user, question(f"Tell me [fault:{fault}]", provider=provider))
    assert streamed.status == 200
    assert streamed.kinds[-3:] == ["finish-step", "error", "finish"]
    assert "Nothing was charged" in streamed.parts[-2]["errorText"]
    assert (streamed.metadata["funding"], streamed.metadata["charged_usd"]) == ("byok", 0)
    assert accounts.asked == [(provider, last4)]
    assert state_of(user) == NOTHING_USED
    assert own_keys.row(user, provider) == stored


# Codes of error events within an answer: on an own account, and on the platform's.
IN_BAND = [
    ("rate_limit_error", TooManyRequests, ProviderOverloaded),
    ("rate_limit_exceeded", TooManyRequests, ProviderOverloaded),
    ("insufficient_quota", ByokBalanceExhausted, ProviderError),
    ("billing_error", ByokBalanceExhausted, ProviderError),
    ("authentication_error", ByokKeyRejected, ProviderError),
    ("invalid_api_key", ByokKeyRejected, ProviderError),
    ("overloaded_error", ProviderOverloaded, ProviderOverloaded),
    ("server_is_overloaded", ProviderOverloaded, ProviderOverloaded),
    ("api_error", ProviderError, ProviderError),
    (None, ProviderError, ProviderError),
]


@pytest.mark.parametrize(("code", "own", "platform"), IN_BAND)
def test_an_error_event_is_explained_only_on_an_own_account(
    code: str | None, own: type[AppError], platform: type[AppError]
) -> None:
    assert type(Faults("It", own_account=True, model="m").from_event({"code": code})) is own
    assert type(Faults("It", own_account=False, model="m").from_event({"code": code})) is platform


# Keys that cannot be decrypted --------------------------------------------------------------------------------------

UNREADABLE = {
    "the tag was tampered with": "encryption_tag = set_byte(encryption_tag, 0, 255 - get_byte(encryption_tag, 0))",
    "the ciphertext was tampered with": "encrypted_key = set_byte(encrypted_key, 5, 255 - get_byte(encrypted_key, 5))",
    "the ring lacks its key": "encryption_key_id = 'no-such-key'",
}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("harm", UNREADABLE)
def test_a_key_that_cannot_be_decrypted_is_reported_and_unchanged(
    api: Api, person: NewPerson, state_of: StateOf, own_keys: OwnKeys, stack_db: Db, provider: str, harm: str
) -> None:
    user = person("basic")
    own_keys.put(user, provider)
    stack_db.execute(f"update public.user_api_keys set {UNREADABLE[harm]} where user_id = '{user.id}'".encode())
    stored, accounts = own_keys.row(user, provider), Accounts(api)
    refused = api.http.post("/chat", json=question("Hi", provider=provider), headers=user.headers)
    assert failure(refused) == (422, "byok_key_rejected", None)
    assert "Store it again" in refused.json()["error"]["message"]
    assert accounts.asked == []
    assert state_of(user) == NOTHING_USED
    assert own_keys.row(user, provider) == stored

    last4 = own_keys.put(user, provider)
    assert api.chat(user, question("Hi", provider=provider)).json()["metadata"]["funding"] == "byok"
    assert accounts.asked == [(provider, last4)]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_key_of_another_user_cannot_be_decrypted(
    api: Api, person: NewPerson, own_keys: OwnKeys, stack_db: Db, provider: str
) -> None:
    owner, thief = person("basic"), person("basic")
    own_keys.put(owner, provider)
    own_keys.put(thief, provider)
    stack_db.execute(
        "update public.user_api_keys theirs set encrypted_key = k.encrypted_key, encryption_iv = k.encryption_iv,"
        " encryption_tag = k.encryption_tag from public.user_api_keys k where k.user_id = %s and theirs.user_id = %s",
        (owner.id, thief.id),
    )
    accounts = Accounts(api)
    assert failure(api.chat(thief, question("Hi", provider=provider)))[:2] == (422, "byok_key_rejected")
    assert accounts.asked == []


# In this process, to replace limits and read connections -----------------------------------------------------------


@pytest.fixture
async def chat(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Chat]:
    """The chat, with a short limit of a provider's silence."""
    monkeypatch.setattr(limits, "PROVIDER_SILENCE_S", 0.5)
    async with running_chat(chat_environment(stack)) as chat:
        yield chat


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("fault", ["stall-before", "stall"])
async def test_a_silent_provider_is_a_timeout_without_charge(
    api: Api, person: NewPerson, state_of: StateOf, own_keys: OwnKeys, chat: Chat, provider: str, fault: str
) -> None:
    user = person("basic")
    last4 = own_keys.put(user, provider)
    stored, accounts = own_keys.row(user, provider), Accounts(api)
    body = question(f"Hm [fault:{fault} 60]", provider=provider)
    feed = chat.start(user.id, ChatRequest.model_validate(body))
    with pytest.raises(ProviderTimeout):
        await feed.answer()
    assert feed.is_streaming == (fault == "stall")
    assert accounts.asked == [(provider, last4)]
    assert state_of(user) == NOTHING_USED
    assert own_keys.row(user, provider) == stored


@pytest.mark.parametrize("name", PROVIDERS)
async def test_own_keys_share_only_connections_with_the_platform(
    stack: Stack, api: Api, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """One connection for all. Each request has the key of its user and no account from the environment."""
    monkeypatch.setattr(limits, "PROVIDER_END_S", 20)
    for variable in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.setenv(variable, "theirs")
    sent: list[dict[str, str]] = []
    connections = 0

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass requests to the model's stand-in, and note their headers."""
        nonlocal connections
        connections += 1
        url = urlsplit(api.model_url)
        theirs, to_model = await asyncio.open_connection(url.hostname, url.port)

        async def answer() -> None:
            while part := await theirs.read(65536):
                writer.write(part)
            writer.close()

        answering = asyncio.create_task(answer())
        with suppress(asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:-2])
                sent.append({header.lower(): value for header, value in headers.items()})
                to_model.write(head + await reader.readexactly(int(sent[-1]["content-length"])))
        to_model.close()
        await answering

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    accounts = {"ANTHROPIC_API_KEY": "of-the-platform", "OPENAI_API_KEY": "of-the-platform"}
    urls = {"ANTHROPIC_BASE_URL": address, "OPENAI_BASE_URL": f"{address}/v1"}
    providers = Providers(load(ChatSettings, {**chat_environment(stack), **accounts, **urls}))
    try:
        provider = providers.get(name)
        prompt = Prompt("claude-haiku-5-5", "Be brief.", "Today is a day.", [Message("user", "Hi")], [], False, 100)
        texts = ["of-the-platform", "of-alice", "of-bob", "of-the-platform"]
        for text in texts:
            own_key = None if text == "of-the-platform" else PlainKey(text)
            async with aclosing(provider.stream(prompt, own_key)) as events:
                received: list[Event] = [event async for event in events]
            assert received[-1] == Finished("stop")
    finally:
        await providers.close()
        server.close()
    assert connections == 1
    for headers, text in zip(sent, texts, strict=True):
        carried = [value.removeprefix("Bearer ") for value in headers.values() if "of-" in value]
        assert carried == [text]
        assert not [value for value in headers.values() if "theirs" in value]
