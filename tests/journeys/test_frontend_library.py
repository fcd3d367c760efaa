"""frontend/lib under the AI SDK 6 and 7: what a page sends, and how it learns about errors, history and answers."""

import json
import os
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from functions.common.reasons import BY_CODE
from infra.local.postgres import ROOT
from infra.local.stack import Stack
from tests.conftest import Person
from tests.journeys.ai_sdk_kit import text_of

Json = dict[str, Any]
PRO = ("kept", "long", "failed", "overloaded", "resumed", "stopped", "broken", "called")
CLIENTS = ROOT / "tests/clients"


@pytest.fixture(scope="module", params=["6", "7"], ids=["ai 6", "ai 7"])
def pages(stack: Stack, person: Callable[..., Person], request: pytest.FixtureRequest) -> Json:
    """What each page of library.mjs did. Every page has a user of its own."""
    users = {name: person("pro") for name in PRO}
    users |= {"notKept": person("free"), "cut": person("free"), "refused": person("free", lifetime_quota=0)}
    tokens = {name: user.token for name, user in users.items()}
    done = subprocess.run(
        ["node", "--import", "./sdk.mjs", "library.mjs"],
        cwd=CLIENTS,
        env={**os.environ, "AI_SDK": request.param},
        input=json.dumps({"functions_url": stack.info["functions_url"], "tokens": tokens}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pages: Json = json.loads(done.stdout)
    return pages


def sent(page: Json) -> list[Json]:
    """The bodies of the questions that a page sent."""
    return [request["body"] for request in page["sent"]]


def test_only_the_last_message_is_sent_where_history_is_kept(pages: Json) -> None:
    page = pages["kept"]
    first, second, edited, regenerated = sent(page)
    assert [len(body["messages"]) for body in (first, second, edited, regenerated)] == [1, 1, 1, 1]
    assert first["messages"][0]["id"] == edited["messages"][0]["id"] == edited["messageId"]
    assert (regenerated["trigger"], regenerated["messages"]) == ("regenerate-message", edited["messages"])
    assert all(body["language"] == "en" for body in sent(page))
    assert all(body["context"] == {"type": "bill", "id": "C-5"} for body in sent(page))
    assert page["status"] == "ready"
    assert page["usage"]["included"]["used"] == 4


def test_history_is_what_the_page_showed(pages: Json) -> None:
    page = pages["kept"]
    only_streamed = {"remaining": None, "resets_at": None}
    shown = [
        {**message, "metadata": {**message["metadata"], **only_streamed}} if "metadata" in message else message
        for message in page["shown"]
    ]
    assert page["history"]["messages"] == shown
    assert page["history"]["conversation"]["is_running"] is False
    assert pages["notKept"]["history"] is None


def test_only_texts_are_sent_where_nothing_is_kept(pages: Json) -> None:
    _, second = sent(pages["notKept"])
    question, answer, new = second["messages"]
    assert [message["role"] for message in second["messages"]] == ["user", "assistant", "user"]
    assert {part["type"] for message in (question, answer, new) for part in message["parts"]} == {"text"}
    assert answer["metadata"] == {"finish_reason": "stop"}
    assert any(part["type"] == "tool-get_bill" for part in pages["notKept"]["messages"][1]["parts"])


def test_a_long_conversation_fits_into_a_request(pages: Json) -> None:
    (body,) = sent(pages["long"])
    assert pages["long"]["status"] == "ready"
    assert len(json.dumps(body, ensure_ascii=False).encode()) < 256 * 1024
    assert [message["id"] for message in body["messages"][:-1]] == [f"m{at}" for at in range(288, 300)]


@pytest.mark.parametrize("page", ["refused", "refusedWithTheSdksTransport"])
def test_a_refusal_has_its_sentence_and_action(pages: Json, page: str) -> None:
    problem = pages[page]["problem"]
    assert pages[page]["status"] == "error"
    assert (problem["code"], problem["reason_code"]) == ("payment_required", "free_quota_used")
    assert (problem["action"], problem["requires_payment"]) == ("upgrade", True)
    assert problem["message"].startswith("Vous avez utilisé" if page == "refused" else "You have used")
    assert problem["request_id"]


def test_a_failure_in_the_middle_has_its_reason(pages: Json) -> None:
    first = pages["failed"]["first"]
    problem, answer = first["problem"], first["messages"][-1]
    assert (first["status"], problem["code"], problem["reason_code"]) == ("error", "provider_error", "provider_error")
    assert problem["action"] == "wait"
    assert problem["message"].endswith(".")
    assert problem["request_id"] == answer["metadata"]["request_id"]
    assert answer["metadata"]["error"] == {name: problem[name] for name in ("code", "reason_code", "action")}
    assert (first["stored"]["reason_code"], first["stored"]["action"]) == ("provider_error", "wait")
    assert first["stored"]["message"].startswith("La réponse")
    assert pages["failed"]["status"] == "ready"
    assert "Fail in the middle" in text_of(pages["failed"]["messages"][-1])
    assert pages["failed"]["usage"]["included"]["used"] == 1


def test_a_failure_before_the_first_word_has_its_reason(pages: Json) -> None:
    problem = pages["overloaded"]["problem"]
    assert (problem["code"], problem["action"]) == ("provider_overloaded", "wait")


def test_asking_again_after_a_lost_connection_is_charged_once(pages: Json) -> None:
    page = pages["cut"]
    first, *again = sent(page)
    assert (page["first"]["status"], page["first"]["problem"]["code"]) == ("error", "offline")
    assert page["first"]["retriesAsDisconnected"]
    assert again == [first]
    question, answer = page["messages"]
    cut = [text_of(message) for message in page["first"]["messages"] if message["role"] == "assistant"]
    assert all(text_of(answer).startswith(text) for text in cut)
    assert (answer["metadata"]["finish_reason"], page["usage"]["included"]["used"]) == ("stop", 1)
    assert question["id"] == first["messages"][0]["id"]


def test_a_cut_answer_is_resumed_without_doubling(pages: Json) -> None:
    page = pages["resumed"]
    assert page["first"]["problem"]["code"] == "offline"
    question, answer = page["messages"]
    assert question["role"] == "user"
    assert len([part for part in answer["parts"] if part["type"] == "text"]) == 1
    assert (answer["metadata"]["finish_reason"], page["usage"]["included"]["used"]) == ("stop", 1)


def test_an_answer_can_be_followed_at_another_address(pages: Json) -> None:
    elsewhere = pages["called"]["elsewhere"]
    (url,) = elsewhere["urls"]
    assert url.endswith("/chat/one-elsewhere/stream")
    assert elsewhere["stream"] is None  # 204


def test_a_stopped_answer_ends_as_stopped(pages: Json) -> None:
    assert pages["stopped"]["status"] == "ready"
    assert pages["stopped"]["metadata"]["finish_reason"] == "stopped"


def test_responses_that_are_not_ours_are_readable_errors(pages: Json) -> None:
    broken = pages["broken"]
    codes = {place: page["problem"]["code"] for place, page in broken.items() if "problem" in page}
    assert codes == {
        "html": "unavailable", "empty": "internal", "limited": "too_many_requests", "ends": "offline",
        "offline": "offline",
    }  # fmt: skip
    for place in ("html", "empty", "limited", "offline"):
        called = broken[place]["called"]
        assert called["isApiError"]
        assert (called["code"], called["message"]) == (codes[place], broken[place]["problem"]["message"])
    for page in broken.values():
        message = page["called" if "called" in page else "problem"]["message"]
        assert message.endswith(".")
        assert "<" not in message
    assert broken["offline"]["called"]["message"].startswith("La connexion")
    assert {broken[place]["called"]["code"] for place in ("aborted", "left")} == {"aborted"}
    limited = broken["limited"]["problem"]
    assert limited["action"] == "wait"
    wait = datetime.fromisoformat(limited["resets_at"]) - datetime.now(UTC)
    assert timedelta(0) < wait <= timedelta(seconds=30)


def test_a_success_with_another_body_is_an_error(pages: Json) -> None:
    called = pages["strange"]["called"]
    for place, status in {"nothing": 204, "blank": 200, "page": 200, "none": 200}.items():
        assert called[place]["isApiError"], place
        assert (called[place]["status"], called[place]["code"]) == (status, "unavailable")
        assert called[place]["message"].startswith("Le service")
    assert called["object"] is None
    assert called["messages"] == {"conversation": {}, "messages": [], "before": None}
    assert pages["strange"]["unanswered"]["problem"]["code"] == "unavailable"


def test_parts_of_a_newer_backend_are_dropped(pages: Json) -> None:
    newer = pages["strange"]["newer"]
    assert newer["status"] == "ready"
    assert text_of(newer["messages"][-1]) == "Hi"


def test_only_sentences_for_users_are_shown(pages: Json) -> None:
    thrown = pages["thrown"]
    read = thrown["read"]
    for name in ("bug", "range", "sdk", "json", "stack", "text", "nothing"):
        assert (read[name]["code"], read[name]["message"][:9]) == ("internal", "Une erreu"), name
    for problem in (read["fetch"], read["cut"], thrown["offline"]):
        assert (problem["code"], problem["message"][:12]) == ("offline", "La connexion")
    assert read["part"]["message"] == "Cette réponse a été refusée."
    assert (thrown["noToken"]["isApiError"], thrown["noToken"]["message"][:9]) == (True, "Une erreu")


def test_fields_of_an_error_are_checked(pages: Json) -> None:
    untyped, newer = pages["thrown"]["read"]["untyped"], pages["thrown"]["read"]["newer"]
    assert untyped == pages["thrown"]["read"]["stack"]
    assert (newer["code"], newer["message"], newer["action"]) == ("later", "Later.", "none")


def test_messages_that_are_none_are_left_out(pages: Json) -> None:
    assert pages["thrown"]["messages"] == [[], [], [], []]
    assert pages["thrown"]["invalid"]["isApiError"]


def test_routes_are_called_by_their_names(pages: Json) -> None:
    called = pages["called"]
    assert set(called["plans"]) == {"free", "basic", "pro", "usage_only"}
    assert (called["key"]["provider"], called["key"]["status"]) == ("openai", "valid")
    assert called["page"]["url"].startswith("http")
    assert (called["noToken"]["status"], called["noToken"]["code"]) == (401, "unauthenticated")
    assert called["noToken"]["message"] == BY_CODE["unauthenticated"].fr
    assert (called["invalid"]["status"], called["invalid"]["fields"][0]["field"]) == (422, "api_key")
    assert (called["missing"]["status"], called["missing"]["reason_code"]) == (404, "not_found")
    allowed = {"authorization", "content-type", "accept", "accept-language"}
    assert {name.lower() for name in called["headers"]} <= allowed


@pytest.mark.parametrize("version", ["6", "7"])
def test_the_library_is_typed_for_each_version(version: str) -> None:
    settings = {"6": "tests/clients/tsconfig.ai6.json", "7": "frontend/tsconfig.json"}[version]
    done = subprocess.run(
        ["node_modules/.bin/tsc", "-p", ROOT / settings],
        cwd=ROOT / "frontend", capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
