"""A page is reloaded: GET /chat/{id}/messages returns what the AI SDK's client had built from the streams."""

import json
import uuid
from collections.abc import Callable

import pytest

from tests.api import Api, question
from tests.clients.browser import Browser, Json
from tests.conftest import Person
from tests.journeys.ai_sdk_kit import calls, regenerate, valid

NewPerson = Callable[..., Person]
PROVIDERS = ["anthropic", "openai"]
SLOWLY = "[fault:slow 0.1] [fault:long 30]"
TOOLS = calls(("get_bill", {"number": "C-5"}), ("rm_rf", {}), ("get_mp", {"slug": "imogen-tallowby"}))
ONLY_WHEN_STREAMED = {"remaining": None, "resets_at": None}


def as_stored(message: Json) -> Json:
    """A message that the client built, without what storage does not have."""
    if "metadata" not in message:
        return message
    return {**message, "metadata": {**message["metadata"], **ONLY_WHEN_STREAMED}}


def load(api: Api, person: Person, chat_id: str, **query: int) -> Json:
    """GET /chat/{id}/messages."""
    response = api.http.get(f"/chat/{chat_id}/messages", params=query, headers=person.headers)
    assert response.status_code == 200, response.text
    loaded: Json = response.json()
    return loaded


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("chat_id", ["", "bills/45-1 & more?\n100% #é"], ids=["uuid", "of any name"])
def test_a_reload_shows_the_messages_as_they_were_streamed(
    browser: Browser, person: NewPerson, provider: str, chat_id: str
) -> None:
    """Tools that succeed and fail, sources, a page, an answer that the model cut, a refusal, a replaced answer."""
    acts = (
        {"send": f"First {TOOLS}"},
        {"send": "Cut [fault:max-tokens]"},
        {"send": "Refused [fault:refusal]"},
        {"send": "Last"},
        {"regenerate": {}},
    )
    context = {"type": "bill", "id": "C-5"}
    *_, shown, reloaded, further = browser.use_page(
        person("pro"), chat_id or str(uuid.uuid4()), *acts, {"reload": {}}, {"send": "And then?"},
        provider=provider, context=context,
    )  # fmt: skip
    assert reloaded == [as_stored(message) for message in shown]
    assert [message["metadata"]["finish_reason"] for message in reloaded[1::2]] == [
        *("stop", "length", "content-filter", "stop"),
    ]
    assert further[:-2] == reloaded


def test_a_stopped_answer_is_marked_after_a_reload(browser: Browser, person: NewPerson) -> None:
    user, body = person("pro"), question(f"{TOOLS} {SLOWLY}")
    browser.ask("stopped", user, body)
    browser.until("stopped", parts=3)
    browser.stop("stop", user, body["id"])
    browser.stopped("stop")
    received = valid(browser.end("stopped"))
    ((asked, answer),) = browser.use_page(user, body["id"], {"reload": {}})
    assert asked == body["messages"][0]
    assert received.message is not None
    assert answer == as_stored(received.message)
    assert answer["metadata"]["finish_reason"] == "stopped"


@pytest.mark.parametrize("tier", ["pro", "free"])
def test_a_reload_during_the_first_answer_shows_its_question(
    browser: Browser, person: NewPerson, api: Api, tier: str
) -> None:
    user, body = person(tier), question(f"At length {SLOWLY}", chat_id=f"first {uuid.uuid4()}")
    name = f"first-{tier}"
    browser.ask(name, user, body)
    browser.until(name)
    reloaded, resumed = browser.use_page(user, body["id"], {"reload": {}}, {"resume": {}})
    assert reloaded == body["messages"]
    received = valid(browser.end(name))
    assert resumed == [*body["messages"], received.message]
    if tier == "pro":
        loaded = load(api, user, body["id"])
        assert len(loaded["messages"]) == 2
        assert (loaded["conversation"]["is_running"], loaded["before"]) == (False, None)
    else:
        after = api.http.get(f"/chat/{body['id']}/messages", headers=user.headers)
        assert (after.status_code, after.json()["error"]["code"]) == (404, "not_found")


def test_a_reload_does_not_show_what_a_running_answer_replaces(browser: Browser, person: NewPerson, api: Api) -> None:
    user, body = person("pro"), question("What is a quorum?")
    first = valid(browser.answer("first", user, body)).message
    assert first is not None
    second = question(f"And then {SLOWLY}", chat_id=body["id"])
    browser.ask("second", user, second)
    browser.until("second")
    assert [message["id"] for message in load(api, user, body["id"])["messages"]] == [
        body["messages"][0]["id"], first["id"], second["messages"][0]["id"],
    ]  # fmt: skip
    browser.stop("stop", user, body["id"])
    browser.stopped("stop")
    stopped = valid(browser.end("second")).message
    assert stopped is not None
    browser.ask("again", user, regenerate(second, stopped))
    browser.until("again")
    loaded = load(api, user, body["id"])
    assert loaded["conversation"]["is_running"] is True
    assert [message["role"] for message in loaded["messages"]] == ["user", "assistant", "user"]
    browser.stop("stop-again", user, body["id"])
    browser.stopped("stop-again")
    again = valid(browser.end("again")).message
    assert again is not None
    assert [message["id"] for message in load(api, user, body["id"])["messages"]][2:] == [
        second["messages"][0]["id"], again["id"],
    ]  # fmt: skip


def test_messages_of_another_user_are_not_found(browser: Browser, person: NewPerson, api: Api) -> None:
    user, other, body = person("pro"), person("pro"), question("Mine")
    assert api.http.get(f"/chat/{body['id']}/messages", headers=user.headers).status_code == 404
    valid(browser.answer("mine", user, body))
    assert len(load(api, user, body["id"].upper())["messages"]) == 2
    assert api.http.get(f"/chat/{body['id']}/messages", headers=other.headers).status_code == 404
    assert api.http.get(f"/chat/{body['id']}/messages").status_code == 401


@pytest.mark.parametrize("before", ["0", "-1", "x", "99999999999", ""])
def test_an_invalid_page_is_named(api: Api, person: NewPerson, before: str) -> None:
    response = api.http.get("/chat/any/messages", params={"before": before}, headers=person("pro").headers)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (422, "invalid_request")
    assert [field["field"] for field in error["fields"]] == ["before"], json.dumps(error)
