"""The chat behind gateways that send unusual streams, with models that are gone, and with providers that refuse."""

import json
import re
import uuid
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from functions.chat.metering import Arrival
from functions.chat.providers.faults import Faults
from functions.chat.request import ChatRequest
from functions.common.errors import AppError, ByokKeyRejected, ModelGone, ProviderError
from functions.common.ids import new_request_id
from infra.local.model import answer
from infra.local.stack import Stack
from tests.api import Api, StateOf, Streamed, question
from tests.chat_kit import chat_environment, running_chat
from tests.conftest import Person
from tests.own_keys import store_key

NewPerson = Callable[..., Person]
Db = psycopg.Connection[dict[str, Any]]
PROVIDERS = ["anthropic", "openai"]
OTHER = {"anthropic": "openai", "openai": "anthropic"}
BILL = '[tool:get_bill {"number": "C-5"}] [fault:slow 0]'
OWN_ID = re.compile(r"call_[0-9a-f]{16}")
REFUSED = {
    "en": "The model provider ended this answer because of its rules on content. Ask in other words, or ask something "
    "else.",
    "fr": "Le fournisseur du modèle a mis fin à cette réponse en raison de ses règles sur le contenu. Reformulez la "
    "question, ou posez-en une autre.",
}


def of_kind(streamed: Streamed, kind: str) -> list[dict[str, Any]]:
    return [part for part in streamed.parts if part["type"] == kind]


# Streams ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("styles", ["crlf bom lines", "cr heartbeats", "done bytes", "crlf lines heartbeats bytes"])
def test_events_may_be_written_in_any_style(api: Api, person: NewPerson, provider: str, styles: str) -> None:
    text = f"« Où »\u2028🍁 {BILL} [fault:sse {styles}]"
    streamed = api.stream(person("basic"), question(text, provider=provider))
    (output,) = of_kind(streamed, "tool-output-available")
    assert streamed.text == answer(text, [json.dumps(output["output"], ensure_ascii=False, separators=(",", ":"))])
    assert streamed.metadata["finish_reason"] == "stop"


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(("fault", "emoji"), [("halves", "😀"), ("halves end", "\ufffd")])
def test_halves_of_an_emoji_are_joined_or_replaced(
    api: Api, person: NewPerson, state_of: StateOf, provider: str, fault: str, emoji: str
) -> None:
    user, text = person("basic"), f"Smile [fault:{fault}]"
    streamed = api.stream(user, question(text, provider=provider))
    assert emoji in streamed.text
    assert streamed.text.replace(emoji, "") == answer(text)
    assert state_of(user).messages[-1] == ("assistant", streamed.text)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("fault", ["no-usage", "no-usage null"])
def test_an_answer_without_usage_is_charged_and_estimated(
    api: Api, person: NewPerson, state_of: StateOf, provider: str, fault: str
) -> None:
    user = person("basic")
    streamed = api.stream(user, question(f"Tell me {BILL} [fault:{fault}]", provider=provider))
    assert streamed.metadata["finish_reason"] == "stop"
    assert streamed.metadata["usage"]["input_tokens"] > 1_000
    assert streamed.metadata["usage"]["output_tokens"] > 50
    assert streamed.metadata["cost_usd"] > 0
    assert state_of(user).outcomes == ["answered"]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("fault", ["whole-input", "stop-reason end_turn", "stop-reason unknown_reason"])
def test_a_tool_is_run_for_every_call_that_came(api: Api, person: NewPerson, provider: str, fault: str) -> None:
    streamed = api.stream(person("basic"), question(f"{BILL} [fault:{fault}]", provider=provider))
    (output,) = of_kind(streamed, "tool-output-available")
    assert output["output"]["bill"] == "C-5"
    assert streamed.text.startswith("[Bill C-5](")
    assert streamed.metadata["finish_reason"] == "stop"


def test_a_stop_reason_without_a_call_ends_the_answer(api: Api, person: NewPerson) -> None:
    text = "Hello [fault:stop-reason tool_use]"
    streamed = api.stream(person("basic"), question(text, provider="anthropic"))
    assert (streamed.text, streamed.metadata["finish_reason"]) == (answer(text), "stop")


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("kind", ["same", "empty", "dotted"])
def test_calls_are_sent_stored_and_replayed_with_ids_of_our_own(
    api: Api, person: NewPerson, stack_db: Db, provider: str, kind: str
) -> None:
    user, chat_id = person("pro"), str(uuid.uuid4())
    # Small results, so that the cost limit leaves room for many steps.
    call = 'find_mps {"name": "no such member"}]'
    text = f"[tool:{call} [tool-loop:{call} {uuid.uuid4()} [fault:slow 0] [fault:call-ids {kind}]"
    streamed = api.stream(user, question(text, chat_id=chat_id, provider=provider))
    ids = [part["toolCallId"] for part in of_kind(streamed, "tool-input-start")]
    assert len(set(ids)) == len(ids) > 3
    assert all(map(OWN_ID.fullmatch, ids))
    assert [part["toolCallId"] for part in of_kind(streamed, "tool-output-available")] == ids
    stored = stack_db.execute(
        "select m.function_calls from public.messages m join public.conversations c on c.id = m.conversation_id"
        " where c.user_id = %s and m.role = 'assistant'",
        (user.id,),
    ).fetchone()
    assert stored is not None
    assert [call["id"] for call in stored["function_calls"]] == ids
    # Within the answer, the provider's first use of an id is kept for this provider, if it accepts it.
    usable = {"same": "call_0", "empty": "", "dotted": "functions.find_mps:0" if provider == "openai" else ""}[kind]
    last = api.provider_requests(text)[-1]["call_ids"]
    assert last == [usable or ids[0], *ids[1 : len(last)]]
    for number, name in enumerate(PROVIDERS):
        after = f"And then? {uuid.uuid4()} [fault:slow 0]"
        assert api.chat(user, question(after, chat_id=chat_id, provider=name)).status_code == 200
        (asked,) = api.provider_requests(after)
        assert asked["call_ids"] == ids, number


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_id_given_once_is_kept_for_the_next_step_only(api: Api, person: NewPerson, provider: str) -> None:
    user, chat_id, text = person("pro"), str(uuid.uuid4()), f"{BILL} {uuid.uuid4()}"
    (start,) = of_kind(api.stream(user, question(text, chat_id=chat_id, provider=provider)), "tool-input-start")
    _, second = api.provider_requests(text)
    (given,) = second["call_ids"]
    assert given.startswith("toolu_" if provider == "anthropic" else "call_")
    assert given != start["toolCallId"]
    after = f"And then? {uuid.uuid4()} [fault:slow 0]"
    assert api.chat(user, question(after, chat_id=chat_id, provider=provider)).status_code == 200
    assert api.provider_requests(after)[0]["call_ids"] == [start["toolCallId"]]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_tool_name_that_providers_refuse_is_replaced(api: Api, person: NewPerson, provider: str) -> None:
    streamed = api.stream(person("basic"), question("[tool:functions.get_bill {}]", provider=provider))
    (failed,) = of_kind(streamed, "tool-output-error")
    assert of_kind(streamed, "tool-input-start")[0]["toolName"] == "functions_get_bill"
    assert failed["errorText"][:100] in streamed.text


# Refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("language", REFUSED)
@pytest.mark.parametrize("fault", ["refusal", "refusal silent", "refusal words", "filtered"])
def test_a_refusal_is_an_answer_with_a_sentence(
    api: Api, person: NewPerson, state_of: StateOf, provider: str, language: str, fault: str
) -> None:
    user = person("basic")
    streamed = api.stream(
        user, question(f"Tell me [fault:slow 0] [fault:{fault}]", provider=provider, language=language)
    )
    assert (streamed.status, streamed.done) == (200, True)
    assert streamed.text.endswith(REFUSED[language])
    assert (streamed.text == REFUSED[language]) == (fault in ("refusal silent", "filtered"))
    assert streamed.parts[-1]["finishReason"] == streamed.metadata["finish_reason"] == "content-filter"
    after = state_of(user)
    assert (after.outcomes, after.quota_used) == (["answered"], 1)
    assert after.messages[-1] == ("assistant", streamed.text)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_stored_refusal_is_left_out_of_later_prompts(
    api: Api, person: NewPerson, state_of: StateOf, provider: str
) -> None:
    user, chat_id = person("pro"), str(uuid.uuid4())
    first, last = (f"{word} {uuid.uuid4()} [fault:slow 0]" for word in ("First", "Last"))
    for text in (first, f"{BILL} Tell me [fault:after-tools refusal]", last):
        assert api.chat(user, question(text, chat_id=chat_id, provider=provider)).status_code == 200
    (asked,) = api.provider_requests(last)
    assert [message["text"] for message in asked["messages"] if message["role"] == "user"] == [first, last]
    assert [message["role"] for message in asked["messages"]] == ["user", "assistant", "user"]
    assert len(state_of(user).messages) == 6  # the user still sees it


def test_a_refusal_in_a_locked_conversation_is_left_out(
    api: Api, person: NewPerson, stack: Stack, stack_db: Db
) -> None:
    user, chat_id, last = person("pro"), str(uuid.uuid4()), f"Last {uuid.uuid4()}"
    assert api.chat(user, question("First", chat_id=chat_id)).status_code == 200
    with psycopg.connect(stack.postgres.url()) as locked:
        locked.execute("select from public.conversations where user_id = %s for update", (user.id,))
        assert api.chat(user, question("Tell me [fault:refusal]", chat_id=chat_id)).status_code == 200
        assert stack_db.execute("select 1 from public.pending_turns where user_id = %s", (user.id,)).fetchone()
        assert api.chat(user, question(last, chat_id=chat_id)).status_code == 200
    (asked,) = api.provider_requests(last)
    assert [message["role"] for message in asked["messages"]] == ["user", "assistant", "user"]


def test_a_refusal_in_the_clients_history_is_left_out(api: Api, person: NewPerson) -> None:
    user, last = person("free"), f"Last {uuid.uuid4()}"
    refused = api.chat(user, question("Tell me [fault:refusal]")).json()
    body = question(last, ("user", "First"), ("assistant", "Indeed"), ("user", "Tell me"), ("assistant", "No"))
    body["messages"][3] = {**refused["message"], "metadata": refused["metadata"]}
    assert api.chat(user, body).status_code == 200
    (asked,) = api.provider_requests(last)
    assert [message["text"] for message in asked["messages"]] == ["First", "Indeed", last]


# Models ----------------------------------------------------------------------------------------------------------

MODELS = {
    "anthropic": ["claude-haiku-5-5", "claude-sonnet-5-5"],
    "openai": ["gpt-6-luna", "gpt-6-sol"],
}


@pytest.mark.parametrize("own_key", [False, True])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_next_model_of_the_plan_replaces_a_model_that_is_gone(
    api: Api, person: NewPerson, stack: Stack, stack_db: Db, provider: str, own_key: bool
) -> None:
    user, (default, second) = person("basic"), MODELS[provider]
    if own_key:
        store_key(stack, user, f"sk-own-{uuid.uuid4().hex}", provider)
    text = f"Who? {uuid.uuid4()} {BILL} [fault:model-gone {default}]"
    streamed = api.stream(user, question(text, provider=provider))
    assert [entry["model"] for entry in api.provider_requests(text)] == [default, second, second]
    assert (streamed.metadata["model"], streamed.metadata["finish_reason"]) == (second, "stop")
    (row,) = stack_db.execute("select * from public.usage_logs where user_id = %s", (user.id,)).fetchall()
    assert (row["provider"], row["model"], row["outcome"]) == (provider, second, "answered")


async def test_a_model_that_is_gone_is_logged(
    stack: Stack, person: NewPerson, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    body = question("Who? [fault:model-gone claude-haiku-5-5]", provider="anthropic")
    request_id = new_request_id()
    async with running_chat(chat_environment(stack)) as chat:
        await chat.start(person("basic").id, ChatRequest.model_validate(body), Arrival(request_id)).answer()
    (line,) = [record for record in caplog.records if record.message == "model gone"]
    assert (line.provider, line.model, line.request_id) == ("anthropic", "claude-haiku-5-5", request_id)  # type: ignore[attr-defined]
    assert '"ModelsGone":[1.0]' in capsys.readouterr().out


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_other_provider_answers_if_all_models_are_gone(api: Api, person: NewPerson, provider: str) -> None:
    text = f"Who? {uuid.uuid4()} [fault:slow 0] [fault:{provider} model-gone]"
    streamed = api.stream(person("basic"), question(text, provider=provider))
    asked = [*MODELS[provider], MODELS[OTHER[provider]][0]]
    assert [entry["model"] for entry in api.provider_requests(text)] == asked
    assert (streamed.metadata["provider"], streamed.metadata["model"]) == (OTHER[provider], asked[-1])


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_error_names_the_model_that_is_gone(api: Api, person: NewPerson, state_of: StateOf, provider: str) -> None:
    user = person("basic")
    refused = api.chat(user, question("Who? [fault:model-gone]", provider=provider))
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (422, "model_not_available")
    assert f"does not offer {MODELS[provider][0]} any more. Nothing was charged" in error["message"]
    assert state_of(user).outcomes == ["failed"]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_own_keys_user_reads_that_it_is_the_model(api: Api, person: NewPerson, stack: Stack, provider: str) -> None:
    user = person("basic")
    store_key(stack, user, f"sk-own-{uuid.uuid4().hex}", provider)
    refused = api.chat(user, question("Who? [fault:model-gone]", provider=provider))
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (422, "model_not_available")
    assert f"does not have the model {MODELS[provider][0]}. Your key is accepted." in error["message"]
    (key,) = api.http.get("/keys", headers=user.headers).json()["keys"]
    assert key["status"] == "valid"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_key_that_may_not_list_models_is_unchecked_until_it_answers(
    api: Api, person: NewPerson, provider: str
) -> None:
    user = person("basic")
    key = {"api_key": f"sk-restricted-{uuid.uuid4().hex}"}
    stored = api.http.put(f"/keys/{provider}", json=key, headers=user.headers)
    assert (stored.status_code, stored.json()["status"]) == (200, "unchecked")
    assert api.chat(user, question("Hi", provider=provider)).json()["metadata"]["funding"] == "byok"
    (listed,) = api.http.get("/keys", headers=user.headers).json()["keys"]
    assert listed["status"] == "valid"


# Status, code and message of a refusal, and the errors on the platform's and on an own account.
NOT_THE_KEY = [
    (403, "model_not_found", "Project `p` does not have access to model `m`", ModelGone, ModelGone),
    (400, "model_not_found", "The requested model 'm' does not exist.", ModelGone, ModelGone),
    (404, "not_found_error", "model: m", ModelGone, ModelGone),
    (404, "not_found_error", "Not Found", ProviderError, ProviderError),
    (404, "", "", ProviderError, ProviderError),
    (403, "unsupported_country_region_territory", "Country not supported", ProviderError, ProviderError),
    (403, "permission_error", "Your API key does not have permission", ProviderError, ProviderError),
    (401, "invalid_request_error", "Missing scopes: model.request.", ProviderError, ProviderError),
    (401, "ip_not_authorized", "Your IP is not in the allowlist", ProviderError, ProviderError),
    (401, "", "", ProviderError, ByokKeyRejected),
    (403, "invalid_api_key", "", ProviderError, ByokKeyRejected),
    (400, "authentication_error", "", ProviderError, ByokKeyRejected),
]


@pytest.mark.parametrize(("status", "code", "message", "platform", "own"), NOT_THE_KEY)
def test_a_refusal_is_about_the_key_only_if_it_says_so(
    status: int, code: str, message: str, platform: type[AppError], own: type[AppError]
) -> None:
    for own_account, expected in ((False, platform), (True, own)):
        assert type(Faults("It", own_account, "m").from_status(status, {}, code, message)) is expected


# Requests --------------------------------------------------------------------------------------------------------


def test_half_an_emoji_in_a_request_is_replaced(api: Api, person: NewPerson, state_of: StateOf) -> None:
    user = person("basic")
    body = json.dumps(question("Cut \ud83d here, \\ud83d there, whole \ud83d\ude00"))
    headers = {**user.headers, "content-type": "application/json"}
    assert api.http.post("/chat", content=body, headers=headers).status_code == 200
    assert state_of(user).messages[0] == ("user", "Cut \ufffd here, \\ud83d there, whole 😀")


def test_a_question_with_a_file_is_refused(api: Api, person: NewPerson, state_of: StateOf) -> None:
    user = person("basic")
    body = question("What is this?", ("user", "Earlier"), ("assistant", "Indeed"))
    file = {"type": "file", "mediaType": "image/png", "url": "data:image/png;base64,AAAA"}
    body["messages"][2]["parts"].append(file)
    refused = api.chat(user, body)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (422, "invalid_request")
    assert "file" in error["fields"][0]["message"]
    assert state_of(user).outcomes == []
    body["messages"][2]["parts"].pop()
    body["messages"][0]["parts"].append(file)  # refused before: it must not block the chat
    assert api.chat(user, body).status_code == 200
