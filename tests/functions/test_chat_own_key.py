"""Chat on a user's own key: their account pays and the plan is not touched; what is wrong with the key or the account
is said so, and never paid otherwise."""

import uuid
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from types import ModuleType
from typing import Any

import anthropic
import httpx
import httpx2
import openai
import psycopg
import pytest

from functions.chat import limits
from functions.chat.chat import Chat
from functions.chat.providers import Event, Finished, Message, Prompt, Providers
from functions.chat.providers.faults import Faults
from functions.chat.request import ChatRequest
from functions.chat.settings import ChatSettings
from functions.chat.tools.parliament import Parliament
from functions.common.database import Database
from functions.common.errors import (
    AppError,
    ByokBalanceExhausted,
    ByokKeyRejected,
    ProviderError,
    ProviderOverloaded,
    ProviderTimeout,
    TooManyRequests,
)
from functions.common.observe import Observer
from functions.common.settings import load, load_vault
from functions.common.vault import PlainKey
from infra.local.stack import Stack
from tests.api import Api, Left, question
from tests.conftest import Person
from tests.own_keys import encryption_environment, store_key

People = Callable[..., Person]
Look = Callable[[Person], Left]
Db = psycopg.Connection[dict[str, Any]]

NAMES = {"anthropic": "Anthropic", "openai": "OpenAI"}
PROVIDERS = list(NAMES)
OTHER = {"anthropic": "openai", "openai": "anthropic"}
# The last four characters of the platform's key, in the stand-in's journal.
PLATFORM = "d-in"
NOTHING_USED = Left(["failed"], 0, [], 0, 0, "0.000000")


class Own:
    """Users' own keys: stored through the API, or directly in the database."""

    def __init__(self, api: Api, db: Db, stack: Stack) -> None:
        self.api = api
        self.db = db
        self.stack = stack

    def put(self, person: Person, provider: str) -> str:
        """PUT /keys; returns the last four characters of a key that the provider accepts."""
        text = f"sk-own-{uuid.uuid4().hex}"
        response = self.api.http.put(f"/keys/{provider}", json={"api_key": text}, headers=person.headers)
        assert (response.status_code, response.json()["status"]) == (200, "valid")
        return text[-4:]

    def store(self, person: Person, provider: str, kind: str, *, is_valid: bool = True) -> str:
        """A key that the provider never saw; the stand-in goes by `kind`. Returns its last four characters."""
        key = f"sk-own-{kind}-{uuid.uuid4().hex}"
        store_key(self.stack, person, key, provider, is_valid=is_valid)
        return key[-4:]

    def delete(self, person: Person, provider: str) -> None:
        """DELETE /keys."""
        response = self.api.http.delete(f"/keys/{provider}", headers=person.headers)
        assert response.json() == {"deleted": True}

    def status(self, person: Person, provider: str) -> str:
        """How GET /keys says that the key stands."""
        keys = self.api.http.get("/keys", headers=person.headers).json()["keys"]
        (status,) = (key["status"] for key in keys if key["provider"] == provider)
        return str(status)

    def row(self, person: Person, provider: str) -> dict[str, Any]:
        """What is stored."""
        (row,) = self.db.execute(
            "select * from public.user_api_keys where user_id = %s and provider = %s", (person.id, provider)
        ).fetchall()
        return row

    def ledger(self, person: Person) -> dict[str, Any]:
        """The person's only row of the ledger."""
        (row,) = self.db.execute("select * from public.usage_logs where user_id = %s", (person.id,)).fetchall()
        return row


@pytest.fixture
def own(api: Api, stack: Stack, stack_db: Db) -> Own:
    """People's own keys."""
    return Own(api, stack_db, stack)


class Accounts:
    """The accounts that were asked for an answer since it was made, as (provider, last four of the key)."""

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
def test_an_own_key_pays_and_the_plan_is_not_touched(
    api: Api, person: People, left: Look, own: Own, provider: str, streams: bool
) -> None:
    user = person("basic")
    last4 = own.put(user, provider)
    before, accounts = api.usage(user), Accounts(api)
    body = question("Who has the floor?", provider=provider)
    metadata = api.stream(user, body).metadata if streams else api.chat(user, body).json()["metadata"]
    assert (metadata["provider"], metadata["funding"], metadata["charged_usd"]) == (provider, "byok", 0)
    assert (metadata["remaining"], metadata["resets_at"], metadata["persisted"]) == (None, None, True)
    assert metadata["cost_usd"] > 0
    assert accounts.asked == [(provider, last4)]
    row = own.ledger(user)
    assert (row["funding"], row["outcome"], row["used_byo_key"]) == ("byok", "answered", True)
    assert (row["counted_against_quota"], row["was_overage"], row["overage_charge"]) == (False, False, 0)
    after = left(user)
    assert (after.holds, after.quota_used, after.lifetime_used, after.overage) == (0, 0, 0, "0.000000")
    usage = api.usage(user)
    assert [usage[paid] for paid in ("included", "overage", "credits")] == [
        before[paid] for paid in ("included", "overage", "credits")
    ]
    assert usage["today"]["queries"] == 1


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_own_key_answers_where_the_plan_would_refuse(
    api: Api, person: People, left: Look, own: Own, provider: str
) -> None:
    user = person("usage_only", overage_limit=0, stripe_subscription_id=f"sub_{uuid.uuid4()}")
    assert api.chat(user, question("Without a key")).status_code == 429
    own.put(user, provider)
    assert api.chat(user, question("With one")).json()["metadata"]["funding"] == "byok"
    assert left(user).overage == "0.000000"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_conversation_on_an_own_key_is_kept_and_continued(
    api: Api, person: People, left: Look, own: Own, stack_db: Db, provider: str
) -> None:
    user = person("basic")
    last4 = own.put(user, provider)
    chat_id, second = str(uuid.uuid4()), f"And second? {uuid.uuid4()}"
    first = api.chat(user, question("What is first reading?", chat_id=chat_id, provider=provider)).json()
    api.chat(user, question(second, chat_id=chat_id, provider=provider))
    (asked,) = api.asked(second)
    assert [message["text"] for message in asked["messages"]] == [
        "What is first reading?",
        first["message"]["parts"][0]["text"],
        second,
    ]
    assert asked["api_key_last4"] == last4
    assert [role for role, _ in left(user).messages] == ["user", "assistant", "user", "assistant"]
    kept = stack_db.execute(
        "select m.used_byo_key from public.messages m join public.conversations c on c.id = m.conversation_id"
        " where c.user_id = %s and m.role = 'assistant'",
        (user.id,),
    ).fetchall()
    assert kept == [{"used_byo_key": True}] * 2


def test_the_same_message_is_answered_once_on_an_own_key_too(api: Api, person: People, own: Own) -> None:
    user = person("basic")
    last4 = own.put(user, "anthropic")
    accounts, body = Accounts(api), question("Only once")
    first, second = api.chat(user, body).json(), api.chat(user, body).json()
    assert second["message"] == first["message"]
    assert (second["metadata"]["funding"], second["metadata"]["charged_usd"]) == ("byok", 0)
    assert accounts.asked == [("anthropic", last4)]


def test_without_a_wish_anthropics_key_is_used_and_then_openais(api: Api, person: People, own: Own) -> None:
    user = person("basic")
    openais, anthropics = own.put(user, "openai"), own.put(user, "anthropic")
    accounts = Accounts(api)
    assert api.chat(user, question("First")).json()["metadata"]["provider"] == "anthropic"
    own.delete(user, "anthropic")
    assert api.chat(user, question("Second")).json()["metadata"]["provider"] == "openai"
    own.delete(user, "openai")
    metadata = api.chat(user, question("Third")).json()["metadata"]
    assert (metadata["provider"], metadata["funding"]) == ("anthropic", "included")
    assert accounts.asked == [("anthropic", anthropics), ("openai", openais), ("anthropic", PLATFORM)]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_question_to_the_other_provider_is_the_plans(
    api: Api, person: People, left: Look, own: Own, provider: str
) -> None:
    user = person("basic")
    own.put(user, provider)
    accounts = Accounts(api)
    metadata = api.chat(user, question("Over there", provider=OTHER[provider])).json()["metadata"]
    assert (metadata["provider"], metadata["funding"]) == (OTHER[provider], "included")
    assert accounts.asked == [(OTHER[provider], PLATFORM)]
    assert left(user).quota_used == 1
    assert own.ledger(user)["used_byo_key"] is False


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_plan_without_own_keys_does_not_use_the_one_from_before(
    api: Api, person: People, left: Look, own: Own, stack_db: Db, provider: str
) -> None:
    user = person("basic")
    own.put(user, provider)
    stack_db.execute("update public.user_subscriptions set tier = 'free' where user_id = %s", (user.id,))
    accounts = Accounts(api)
    assert api.chat(user, question("Since then", provider=provider)).json()["metadata"]["funding"] == "included"
    assert accounts.asked == [(provider, PLATFORM)]
    assert left(user).lifetime_used == 1


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_unchecked_key_is_valid_once_it_has_answered(api: Api, person: People, own: Own, provider: str) -> None:
    user = person("basic")
    own.store(user, provider, "good", is_valid=False)
    assert own.status(user, provider) == "unchecked"
    assert api.chat(user, question("Hi [fault:drop]", provider=provider)).status_code == 502
    assert own.status(user, provider) == "unchecked"
    assert api.chat(user, question("Hi", provider=provider)).status_code == 200
    assert own.status(user, provider) == "valid"
    assert own.row(user, provider)["last_validated_at"] is not None


# The key is not accepted --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("kind", "fault", "is_valid"),
    [("invalid", "", True), ("invalid", "", False), ("good", "[fault:status 401]", True),
     ("good", "[fault:status 403]", True)],
    ids=["a key", "an unchecked key", "401", "403"],
)  # fmt: skip
def test_a_key_that_the_provider_rejects_is_said_so_and_not_tried_again(
    api: Api, person: People, left: Look, own: Own, provider: str, kind: str, fault: str, is_valid: bool
) -> None:
    user = person("basic")
    last4 = own.store(user, provider, kind, is_valid=is_valid)
    accounts = Accounts(api)
    refused = api.http.post("/chat", json=question(f"Hi {fault}", provider=provider), headers=user.headers)
    assert failure(refused) == (422, "byok_key_rejected", None)
    sentence = refused.json()["error"]["message"]
    assert sentence == (
        f"{NAMES[provider]} does not accept your own key. Store another one, or delete it to use your plan's queries."
    )
    assert accounts.asked == [(provider, last4)]  # and never the platform's account
    assert left(user) == NOTHING_USED
    assert own.ledger(user)["funding"] == "byok"
    row = own.row(user, provider)
    assert (row["is_active"], row["validation_error"]) == (False, sentence)
    assert (row["last_validated_at"] is not None) == is_valid
    assert own.status(user, provider) == "invalid"

    metadata = api.chat(user, question("Next", provider=provider)).json()["metadata"]
    assert (metadata["provider"], metadata["funding"]) == (provider, "included")
    assert accounts.asked == [(provider, last4), (provider, PLATFORM)]
    assert left(user).quota_used == 1


def test_after_a_rejection_the_other_providers_key_is_used(api: Api, person: People, own: Own) -> None:
    user = person("basic")
    rejected, good = own.store(user, "anthropic", "invalid"), own.put(user, "openai")
    accounts = Accounts(api)
    assert failure(api.chat(user, question("Hi")))[:2] == (422, "byok_key_rejected")
    assert api.chat(user, question("Hi")).json()["metadata"]["funding"] == "byok"
    assert accounts.asked == [("anthropic", rejected), ("openai", good)]


def test_the_message_that_met_a_rejected_key_may_be_sent_again(api: Api, person: People, left: Look, own: Own) -> None:
    user = person("basic")
    own.store(user, "anthropic", "invalid")
    body = question("Hi")
    assert api.chat(user, body).status_code == 422
    own.put(user, "anthropic")
    assert api.chat(user, body).json()["metadata"]["funding"] == "byok"
    assert left(user).outcomes == ["failed", "answered"]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_what_is_learnt_of_a_replaced_key_is_not_said_of_the_new_one(
    api: Api, person: People, own: Own, eventually: Callable[..., None], provider: str
) -> None:
    user = person("basic")
    old = own.put(user, provider)
    accounts = Accounts(api)
    body = question("Hi [fault:stall-before 2] [fault:status 401]", provider=provider)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(api.chat, user, body)
        eventually(lambda: accounts.asked == [(provider, old)])
        own.put(user, provider)
        assert failure(answer.result())[:2] == (422, "byok_key_rejected")
    assert own.status(user, provider) == "valid"


# The account cannot pay, or not now ---------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_account_without_credit_is_said_so_and_keeps_its_key(
    api: Api, person: People, left: Look, own: Own, provider: str
) -> None:
    user = person("basic")
    last4 = own.store(user, provider, "exhausted")
    stored, accounts = own.row(user, provider), Accounts(api)
    for _ in range(2):
        refused = api.chat(user, question("Hi", provider=provider))
        assert failure(refused) == (402, "byok_balance_exhausted", None)
        assert NAMES[provider] in refused.json()["error"]["message"]
    assert accounts.asked == [(provider, last4)] * 2
    assert left(user) == Left(["failed", "failed"], 0, [], 0, 0, "0.000000")
    assert own.row(user, provider) == stored


# What the provider does before the first byte, and what its owner gets, as in test_chat_endings.py for the platform's
# account; only the rate limit is the owner's own.
BEFORE = [
    ("status 429 7", 429, "too_many_requests", "7"),
    ("status 429 9000", 429, "too_many_requests", None),
    ("status 429", 429, "too_many_requests", None),
    ("status 400", 502, "provider_error", None),
    ("status 404", 502, "provider_error", None),
    ("status 500", 502, "provider_error", None),
    ("status 503 7", 503, "provider_overloaded", "7"),
    ("status 504", 504, "provider_timeout", None),
    ("overloaded", 503, "provider_overloaded", None),
]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(("fault", "status", "code", "retry_after"), BEFORE)
def test_a_provider_that_refuses_is_an_error_and_the_platform_does_not_step_in(
    api: Api,
    person: People,
    left: Look,
    own: Own,
    provider: str,
    fault: str,
    status: int,
    code: str,
    retry_after: str | None,
) -> None:
    user = person("basic")
    last4 = own.put(user, provider)
    stored, accounts = own.row(user, provider), Accounts(api)
    response = api.http.post("/chat", json=question(f"Hi [fault:{fault}]", provider=provider), headers=user.headers)
    assert failure(response) == (status, code, retry_after)
    attempts = 2 if fault in ("status 500", "overloaded") else 1  # its own trouble, and no long wait asked for
    assert accounts.asked == [(provider, last4)] * attempts
    assert left(user) == NOTHING_USED
    assert own.row(user, provider) == stored


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_rate_limit_is_told_only_to_the_owner_of_the_account(
    api: Api, person: People, own: Own, provider: str
) -> None:
    owner, another = person("basic"), person("basic")
    own.put(owner, provider)
    body = question("Hi [fault:status 429 7]", provider=provider)
    mine, ours = api.chat(owner, body), api.chat(another, body)
    assert failure(mine) == (429, "too_many_requests", "7")
    assert failure(ours) == (503, "provider_overloaded", "7")
    assert f"Your own {NAMES[provider]} account" in mine.json()["error"]["message"]
    assert "rate limit" not in ours.json()["error"]["message"]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("fault", ["drop", "early-end", "bad-json", "error-event", "failed", "empty"])
def test_an_answer_that_breaks_off_ends_in_an_error_part_and_nothing_is_charged(
    api: Api, person: People, left: Look, own: Own, provider: str, fault: str
) -> None:
    user = person("basic")
    last4 = own.put(user, provider)
    stored, accounts = own.row(user, provider), Accounts(api)
    streamed = api.stream(user, question(f"Tell me [fault:{fault}]", provider=provider))
    assert streamed.status == 200
    assert streamed.kinds[-3:] == ["finish-step", "error", "finish"]
    assert "Nothing was charged" in streamed.parts[-2]["errorText"]
    assert (streamed.metadata["funding"], streamed.metadata["charged_usd"]) == ("byok", 0)
    assert accounts.asked == [(provider, last4)]
    assert left(user) == NOTHING_USED
    assert own.row(user, provider) == stored


# Codes of an error in the middle of an answer: on the own account, and on the platform's.
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


@pytest.mark.parametrize("sdk", [anthropic, openai])
@pytest.mark.parametrize(("code", "own", "platform"), IN_BAND)
def test_an_error_event_means_the_owner_only_on_their_own_account(
    sdk: ModuleType, code: str | None, own: type[AppError], platform: type[AppError]
) -> None:
    assert type(Faults(sdk, "It", own_account=True).from_event(code)) is own
    assert type(Faults(sdk, "It", own_account=False).from_event(code)) is platform


# The stored key cannot be read --------------------------------------------------------------------------------------

UNREADABLE = {
    "the tag was tampered with": "encryption_tag = set_byte(encryption_tag, 0, 255 - get_byte(encryption_tag, 0))",
    "the ciphertext was tampered with": "encrypted_key = set_byte(encrypted_key, 5, 255 - get_byte(encrypted_key, 5))",
    "the ring lacks its key": "encryption_key_id = 'of-another-year'",
}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("harm", UNREADABLE)
def test_a_key_that_does_not_open_is_to_be_stored_again_and_is_left_alone(
    api: Api, person: People, left: Look, own: Own, stack_db: Db, provider: str, harm: str
) -> None:
    user = person("basic")
    own.put(user, provider)
    stack_db.execute(f"update public.user_api_keys set {UNREADABLE[harm]} where user_id = '{user.id}'".encode())
    stored, accounts = own.row(user, provider), Accounts(api)
    refused = api.http.post("/chat", json=question("Hi", provider=provider), headers=user.headers)
    assert failure(refused) == (422, "byok_key_rejected", None)
    assert "Store it again" in refused.json()["error"]["message"]
    assert accounts.asked == []
    assert left(user) == NOTHING_USED
    assert own.row(user, provider) == stored

    last4 = own.put(user, provider)
    assert api.chat(user, question("Hi", provider=provider)).json()["metadata"]["funding"] == "byok"
    assert accounts.asked == [(provider, last4)]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_anothers_key_does_not_open(api: Api, person: People, own: Own, stack_db: Db, provider: str) -> None:
    owner, thief = person("basic"), person("basic")
    own.put(owner, provider)
    own.put(thief, provider)
    stack_db.execute(
        "update public.user_api_keys theirs set encrypted_key = k.encrypted_key, encryption_iv = k.encryption_iv,"
        " encryption_tag = k.encryption_tag from public.user_api_keys k where k.user_id = %s and theirs.user_id = %s",
        (owner.id, thief.id),
    )
    accounts = Accounts(api)
    assert failure(api.chat(thief, question("Hi", provider=provider)))[:2] == (422, "byok_key_rejected")
    assert accounts.asked == []


# In this process: what cannot be seen, or waited for, from outside ---------------------------------------------------


@pytest.fixture
def settings(stack: Stack) -> ChatSettings:
    """The chat's settings, as the stack has them."""
    return load(
        ChatSettings,
        {
            "SUPABASE_URL": stack.info["supabase_url"],
            "SUPABASE_ANON_KEY": stack.info["anon_key"],
            "SUPABASE_SERVICE_ROLE_KEY": stack.info["service_role_key"],
            "ANTHROPIC_API_KEY": "of-the-platform",
            "ANTHROPIC_BASE_URL": stack.info["model_url"],
            "OPENAI_API_KEY": "of-the-platform",
            "OPENAI_BASE_URL": f"{stack.info['model_url']}/v1",
        },
    )


@pytest.fixture
async def chat(settings: ChatSettings, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Chat]:
    """The chat, with little patience for a provider."""
    monkeypatch.setattr(limits, "PROVIDER_SILENCE_S", 0.5)
    parliament = Parliament(settings.parliament_api_url, settings.represent_api_url, settings.contact)
    chat = Chat(
        Database(settings),
        Providers(settings),
        parliament,
        load_vault(encryption_environment(stack)),
        Observer("own-key"),
    )
    yield chat
    await chat.close()


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("fault", ["stall-before", "stall"])
async def test_a_provider_that_falls_silent_is_a_timeout_and_nothing_is_charged(
    api: Api, person: People, left: Look, own: Own, chat: Chat, provider: str, fault: str
) -> None:
    user = person("basic")
    last4 = own.put(user, provider)
    stored, accounts = own.row(user, provider), Accounts(api)
    body = question(f"Hm [fault:{fault} 60]", provider=provider)
    feed = chat.start(user.id, ChatRequest.model_validate(body), "request")
    with pytest.raises(ProviderTimeout):
        await feed.answer()
    assert feed.is_streaming == (fault == "stall")
    assert accounts.asked == [(provider, last4)]
    assert left(user) == NOTHING_USED
    assert own.row(user, provider) == stored


@pytest.mark.parametrize("name", PROVIDERS)
async def test_own_keys_share_the_platforms_connections_and_nothing_else(
    settings: ChatSettings, api: Api, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """One HTTP client for all; each request carries one key, its owner's, and no account that the environment names."""
    for variable in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.setenv(variable, "theirs")
    sent: list[tuple[httpx2.AsyncClient, httpx2.Headers]] = []
    really_send = httpx2.AsyncClient.send

    async def send(client: httpx2.AsyncClient, request: httpx2.Request, **how: Any) -> httpx2.Response:
        sent.append((client, request.headers))
        return await really_send(client, request, **how)

    monkeypatch.setattr(httpx2.AsyncClient, "send", send)
    providers = Providers(settings)
    try:
        provider: Any = await providers.get(name)
        prompt = Prompt("claude-haiku-5-5", "Be brief.", "Today is a day.", [Message("user", "Hi")], [], False, 100)
        texts = ["of-the-platform", "of-alice", "of-bob", "of-the-platform"]
        for text in texts:
            own_key = None if text == "of-the-platform" else PlainKey(text)
            async with aclosing(provider.stream(prompt, own_key)) as events:
                said: list[Event] = [event async for event in events]
            assert said[-1] == Finished("stop")
        shared = provider._client._client
    finally:
        await providers.close()
    assert [client is shared for client, _ in sent] == [True] * 4
    for (_, headers), text in zip(sent, texts, strict=True):
        carried = [value.removeprefix("Bearer ") for value in headers.values() if "of-" in value]
        assert carried == [text]
        assert text == "of-the-platform" or not [value for value in headers.values() if "theirs" in value]
