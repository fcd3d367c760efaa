"""What a user does with answers: rate them, and share a copy of their conversation."""

import uuid
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from infra.local.stack import Stack
from tests.api import Api, question
from tests.conftest import Person, lasting_connection

NewPerson = Callable[..., Person]


def ask(api: Api, user: Person, text: str = "Where is Bill C-5?") -> tuple[str, str]:
    """Ask a question with a tool. Returns the ids of the chat and of the answer."""
    body = question(f'{text} [tool:get_bill {{"number": "C-5"}}]')
    answered = api.chat(user, body)
    assert answered.status_code == 200
    return body["id"], answered.json()["message"]["id"]


def feedback(api: Api, user: Person, message: str, **body: Any) -> httpx.Response:
    """PUT /messages/{id}/feedback."""
    return api.http.put(f"/messages/{message}/feedback", json=body, headers=user.headers)


@pytest.mark.parametrize("tier", ["free", "pro"])
def test_an_answer_is_rated_by_its_message_id(api: Api, stack: Stack, person: NewPerson, tier: str) -> None:
    user = person(tier)
    _, message = ask(api, user)
    rated = feedback(api, user, message, rating="down", comment="Wrong stage.")
    assert (rated.status_code, rated.json()) == (200, {"rating": "down", "comment": "Wrong stage."})
    stored = "select rating, comment, query_id::text from public.message_feedback where user_id = %s"
    found = lasting_connection(stack).execute(stored, (user.id,)).fetchall()
    assert found == [{"rating": "down", "comment": "Wrong stage.", "query_id": message}]
    assert feedback(api, user, message, rating=None).json() == {"rating": None, "comment": None}
    assert lasting_connection(stack).execute(stored, (user.id,)).fetchall() == []


def test_feedback_that_is_no_rating_of_an_own_answer_is_refused(api: Api, person: NewPerson) -> None:
    user, other = person("free"), person("free")
    _, message = ask(api, user)
    for who, which in ((other, message), (user, str(uuid.uuid4())), (user, "not-a-uuid")):
        assert feedback(api, who, which, rating="up").json()["error"]["code"] == "not_found"
    for body in ({}, {"rating": "good"}, {"rating": None, "comment": "x"}, {"rating": "up", "comment": "x" * 2001}):
        refused = feedback(api, user, message, **body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, "invalid_request")


def test_everybody_with_the_link_reads_a_shared_copy(api: Api, person: NewPerson) -> None:
    user = person("pro")
    chat, _ = ask(api, user)
    shared = api.http.post(f"/chat/{chat}/share", headers=user.headers)
    assert shared.status_code == 200
    assert shared.json().keys() == {"token", "url", "expires_at"}
    copy = httpx.get(shared.json()["url"])
    assert copy.status_code == 200
    assert (copy.headers["cache-control"], copy.headers["x-robots-tag"]) == ("no-store", "noindex")
    asked, answered = copy.json()["messages"]
    assert "Where is Bill C-5?" in asked["parts"][0]["text"]
    assert {part["type"] for part in answered["parts"]} == {"text", "source-url"}
    assert copy.json()["expires_at"] == shared.json()["expires_at"]
    assert api.http.post(f"/chat/{chat}/share", headers=user.headers).json()["token"] == shared.json()["token"]
    ended = [api.http.delete(f"/chat/{chat}/share", headers=user.headers).json() for _ in range(2)]
    assert ended == [{"deleted": True}, {"deleted": False}]
    assert httpx.get(shared.json()["url"]).status_code == 404


def test_what_is_not_stored_or_not_shared_is_not_found(api: Api, person: NewPerson) -> None:
    user, other, free = person("pro"), person("pro"), person("free")
    chat, _ = ask(api, user)
    unstored, _ = ask(api, free)
    for who, which in ((other, chat), (free, unstored), (user, "x" * 129), (user, str(uuid.uuid4()))):
        assert api.http.post(f"/chat/{which}/share", headers=who.headers).status_code == 404
    for token in ("x" * 32, "x", "x" * 1000, chat):
        assert api.http.get(f"/shared/{token}").status_code == 404
