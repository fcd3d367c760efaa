"""docs/support.md: every command answers its question, in one go, and leaves nothing that reconcile finds."""

import json
import os
import re
import shlex
import subprocess
import sys
import urllib.error
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from string import Template
from unittest import mock

import pytest

from functions.maintenance.__main__ import main
from functions.maintenance.support.lines import moment
from infra.local.postgres import ROOT
from tests.api import Api, question
from tests.billing_kit import DAY, BillingStack, environment, stripe_get
from tests.conftest import Person
from tests.sql.billing import pay_overage
from tests.sql.metering import admit, key, release, settle, turn, value

PAGE = (ROOT / "docs" / "support.md").read_text(encoding="utf-8")
# A question with its commands.
QUESTIONS = [
    (int(number), [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()])
    for number, text in re.findall(r"^### (\d+)\. .*?\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
]
PREFIX = "python -m functions.maintenance "
NOTICE = "announce --en x --fr x --reason x "
MODELS = "models --tier basic --provider anthropic --reason x --set "
# What the answer must contain, a pattern for each command of the question.
ANSWERS = {
    1: [r"admitted: Within daily quota; the plan pays \(.*\)\n.*answered .*\n  charged one included query"],
    2: [r"Next query: a credit pays: Credits available"],
    3: [r"failed .*\n  charged nothing"],
    4: [r"given back to the plan: query"],
    5: [r"given back to overage: .*\$0\.025\n  \$0\.02 goes on the next invoice"],
    6: [r"Overage bills:\n.*given back, -\$0\.02, ii_.*\n.*: 41 queries, \$1\.02, ii_.*, in_"],
    7: [r"the plan pays .*\n.*\n  charged one included query\n  given back at .* by Ada Lovelace: Wrong bill cited"],
    8: [r"read the plan and 1 payments"],
    9: [r"read the plan and 1 payments"],
    10: [r"daily_quota: 1 → 60"],
    11: [r"daily_quota: 60 → none"],
    12: [r"granted 20 credits"],
    13: [r"granted 50 credits\n.*\n?.*expires_at: none → 2099-06-30"],
    14: [r"lifetime_quota: none → 20"],
    15: [r"overage_limit_usd: none → \$50\.00"],
    16: [r"overage_limit_usd: \$50\.00 → \$5\.00"],
    17: [r"Stripe's invoices:\n  .* paid, \$\d"],
    18: [r"sent the confirmation e-mail"],
    19: [r"Own keys:\n  openai …1234 invalid"],
    20: [r"blocked\n  blocked_at: none →"],
    21: [r"unblocked"],
    22: [r"limit by Ada Lovelace: Two unpaid invoices"],
    23: [r"wrote .*: \d+ rows"],
    24: [r'deleted: .*"users": 1'],
    25: [r"basic +\S+@example\.test"],
    26: [r"announced\nPaused: nothing\nAnnouncements:\n.*Maintenance tonight"],
    27: [r"Maintenance tonight", r"ended\nPaused: nothing\nAnnouncements: none"],
    28: [r"Paused:\n  provider anthropic\n", r"resumed\nPaused: nothing"],
    29: [r"Paused:\n  the chat since", "resumed", r"Paused:\n  sign-ups since", r"resumed\nPaused: nothing"],
    30: [r"pro, openai, further ones on an own key: gpt-6-astra", r"models set"],
}


@pytest.fixture(scope="module")
def variables(billing: BillingStack, empty_billing: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The variables of the page: users, and ids of one who has everything."""
    user = billing.new_user()
    billing.buy(user, plan="basic")
    billing.buy(user, pack="pack_100")
    assert set(billing.deliver()) == {200}
    start = int(billing.subscription_row(user)["current_period_start"].timestamp())
    billing.add_overage(user, 41, start + DAY, start)
    billing.advance_and_deliver(32 * DAY)
    billed = value(billing.db, "select id::text from public.usage_logs where user_id = %s limit 1", user.id)
    value(
        billing.db,
        "update public.user_subscriptions set daily_quota = 1 where user_id = %s returning daily_quota",
        user.id,
    )
    failed = admit(billing.db, user.id)["hold_id"]
    release(billing.db, failed)
    query = admit(billing.db, user.id, p_chat_id="chat", p_session_id=None)["hold_id"]
    settle(billing.db, query, turn=turn("chat", query, query))
    key(billing.db, user.id, "openai", active=False)
    free, unconfirmed, abuser, leaver = (billing.new_user() for _ in range(4))
    billing.db.execute("update auth.users set email_confirmed_at = null where id = %s", (unconfirmed.id,))
    people = {"WHO": user, "FREE": free, "UNCONFIRMED": unconfirmed, "ABUSER": abuser, "LEAVER": leaver}
    return {
        **{name: person.email for name, person in people.items()},
        "ID": query.replace("-", ""),
        "QUERY": query,
        "FAILED": failed,
        "BILLED": billed,
        "FILE": str(tmp_path_factory.mktemp("export") / "me.json"),
    }


@pytest.fixture(autouse=True)
def operator(billing: BillingStack) -> Iterator[None]:
    """The environment of an operator."""
    known = {**environment(billing.stack, billing.fake.url), "OPERATOR": "Ada Lovelace"}
    with mock.patch.dict(os.environ, known):
        yield


def run(capsys: pytest.CaptureFixture[str], command: str, variables: Mapping[str, str]) -> tuple[int, str, str]:
    """Run a command of the page in this process. Returns its exit status, output and errors."""
    assert command.startswith(PREFIX)
    status = main(shlex.split(Template(command.removeprefix(PREFIX)).substitute(variables)))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_every_command_of_the_page_answers_its_question(
    billing: BillingStack, variables: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert [number for number, _ in QUESTIONS] == list(range(1, 31)) == list(ANSWERS)
    for number, commands in QUESTIONS:
        assert len(commands) == len(ANSWERS[number])
        for command, pattern in zip(commands, ANSWERS[number], strict=True):
            status, out, err = run(capsys, command, variables)
            assert status == 0, f"{number}: {command}\n{err}"
            assert re.search(pattern, out), f"{number}: {command}\n{out}"
            if number == 26:
                variables["ANNOUNCEMENT"] = out.split("Announcements:\n  ")[1].split()[0]
    # Each change is recorded, with who did it and why.
    changes = sum("--reason" in command for _, commands in QUESTIONS for command in commands)
    assert value(billing.db, "select count(*) from public.operator_actions where operator = 'Ada Lovelace'") == changes
    assert main(["reconcile"]) == 0
    assert "Everything adds up." in capsys.readouterr().out
    exported = json.loads(Path(variables["FILE"]).read_text(encoding="utf-8"))
    assert [row["funding"] for row in exported["reversals"]] == ["included", "overage"]
    assert {"credit back", "grant", "limit", "export"} <= {row["action"] for row in exported["operator_actions"]}
    assert "Lovelace" not in json.dumps(exported)


@pytest.mark.parametrize(
    ("command", "answer", "expected"),
    [
        ("user nobody@example.test show", "", "user: No user has this e-mail address"),
        ("user $WHO why $UNKNOWN", "", "user: No query of this user has this id."),
        ("user $WHO credit-back $FAILED --reason x --yes", "", "user: Nothing was charged for"),
        ("user $WHO credit-back $QUERY --reason x --yes", "", "user: The charge of this query was given back before."),
        ("user $FREE delete --reason x", "wrong", "user: Nothing was changed."),
        ("user $FREE grant 5 --reason x", "", "user: Nothing was changed."),
        ("user $FREE resend payments --reason x", "", "user: This user has never been to Stripe's checkout"),
        ("user $FREE resend confirmation --reason x", "", "user: The e-mail address is confirmed already."),
        ("user $FREE limit --reason x", "", "user: Name at least one limit"),
        ("pause provider --en x --fr x --reason x", "", "pause: Name the provider"),
        ("announce --en x --reason x", "", "announce: Give the sentence in both languages"),
        (NOTICE + "--from 2099-01-02 --until 2099-01-01", "", "announce: A notice must end after it starts"),
        (NOTICE + "--until 2020-01-01", "", "announce: A notice must end after it starts, and in the future."),
        ("announce --end $UNKNOWN --reason x", "", "announce: No notice has this id"),
        ("user $FREE grant 5 --expires 2020-01-01 --reason x --yes", "", "user: Grant 1 to 10,000 credits that expire"),
        ("models --set m", "", "models: Give --tier, --provider and --reason."),
        (MODELS + "claude-typo", "", "models: The price list has no model claude-typo of Anthropic."),
        (MODELS + "gpt-6-luna", "", "models: The price list has no model gpt-6-luna of Anthropic."),
        (MODELS + "claude-haiku-5-5,claude-haiku-5-5", "", "models: A model is named twice."),
        (MODELS + "claude-opus-5-5", "", "models: A question on claude-opus-5-5 costs up to $0.0"),
    ],
)
def test_a_refused_command_changes_nothing(
    billing: BillingStack,
    variables: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    answer: str,
    expected: str,
) -> None:
    """One sentence on the standard error, and nothing is recorded."""
    monkeypatch.setattr("functions.maintenance.support.session.read_answer", lambda question: answer)
    count = "select count(*) from public.operator_actions"
    before = value(billing.db, count)
    status, out, err = run(capsys, PREFIX + command, {**variables, "UNKNOWN": str(uuid.uuid4())})
    assert (status, out) == (1, "")
    assert err.splitlines()[-1].startswith(expected)
    assert value(billing.db, count) == before


def test_an_operator_has_a_name(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("x" * 201, "  "):
        monkeypatch.setenv("OPERATOR", name)
        assert run(capsys, f"{PREFIX}models", {})[::2] == (
            1,
            "models: OPERATOR is your name, of 1 to 200 characters.\n",
        )


def test_the_id_that_a_user_is_shown_leads_to_the_query(
    billing: BillingStack, api: Api, person: Callable[..., Person], capsys: pytest.CaptureFixture[str]
) -> None:
    """The id of an answer's request, of the answer, of the user's own message, and of the newest refused attempt."""
    user, body = person("basic", daily_quota=1, allow_overages=False), question("Who?")
    streamed = api.stream(user, body)
    shown, message = streamed.headers["x-request-id"], streamed.parts[0]["messageId"]
    assert (streamed.metadata["request_id"], uuid.UUID(shown)) == (shown, uuid.UUID(message))
    for an_id in (shown, message, body["messages"][0]["id"]):
        status, out, _ = run(capsys, f"{PREFIX}user {user.email} why {an_id}", {})
        assert (status, f"query {message}, plan basic" in out, f"answer {message}" in out) == (0, True, True)
    refused = question("And who else?")
    for _ in range(2):
        shown = api.chat(user, refused).json()["error"]["request_id"]
    status, out, _ = run(capsys, f"{PREFIX}user {shown} why {shown}", {})
    assert status == 0
    assert re.match(
        rf".* request {uuid.UUID(shown)}, plan basic\n  refused until .*: Daily quota exceeded .*\n"
        "  reason daily_quota_used: action wait, a payment does not help; ends at midnight UTC",
        out,
    )


def test_users_see_the_sentence_of_a_pause(
    api: Api, person: Callable[..., Person], capsys: pytest.CaptureFixture[str]
) -> None:
    """In their language, in the refusal and in GET /usage; and once it ends, the same message is answered."""
    user, body = person("basic"), question("Qui?", language="fr")
    run(capsys, f"{PREFIX}pause chat --en 'Back at noon.' --fr 'De retour à midi.' --reason 'Wrong prices'", {})
    try:
        refused = api.chat(user, body)
        assert (refused.status_code, int(refused.headers["retry-after"]) > 0) == (503, True)
        error = refused.json()["error"]
        assert (error["reason_code"], error["action"], error["message"]) == ("chat_paused", "wait", "De retour à midi.")
        assert [one["kind"] for one in api.usage(user)["announcements"]] == ["chat_paused"]
    finally:
        run(capsys, f"{PREFIX}resume chat --reason 'Prices corrected'", {})
    assert api.chat(user, body).status_code == 200
    assert api.usage(user)["announcements"] == []


def test_paused_sign_ups_are_refused_with_the_sentence(
    sign_up: Callable[[str], Person], capsys: pytest.CaptureFixture[str]
) -> None:
    """As Supabase Auth answers with the hook Before User Created."""
    run(capsys, f"{PREFIX}pause sign-ups --en 'Closed today.' --fr 'Fermé.' --reason 'Bots'", {})
    try:
        with pytest.raises(urllib.error.HTTPError) as refused:
            sign_up("free")
    finally:
        run(capsys, f"{PREFIX}resume sign-ups --reason 'Captcha added'", {})
    with refused.value as response:
        assert (response.code, json.load(response)["msg"]) == (403, "Closed today.")
    assert sign_up("free").id


def test_giving_back_needs_one_query_and_no_stripe(
    billing: BillingStack, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two chats have a message with this id. The exact id of a query names it, also in the question."""
    user = billing.new_user("basic", stripe_customer_id=f"cus_{uuid.uuid4()}")
    queries, questions = list[str](), list[str]()
    failed = admit(billing.db, user.id, "m1", p_chat_id="one")["hold_id"]
    release(billing.db, failed)
    for chat in ("one", "two"):
        queries.append(admit(billing.db, user.id, "m1", p_chat_id=chat)["hold_id"])
        settle(billing.db, queries[-1])
    for an_id, words in (("m1", "2 charged queries of this user have this id: "), (failed, "charged as query ")):
        status, _, err = run(capsys, f"{PREFIX}user {user.id} credit-back {an_id} --reason x --yes", {})
        assert (status, words + queries[0] in err) == (1, True)
    monkeypatch.setattr("functions.maintenance.support.session.read_answer", questions.append)
    status, _, err = run(capsys, f"{PREFIX}user {user.id} credit-back {queries[0]} --reason x", {})
    assert (status, err) == (1, "user: Nothing was changed.\n")
    assert re.match(
        rf"{user.email}, user {user.id}: Query {queries[0]} of 2.* UTC charged one included query\. This gives it back",
        questions[0],
    )
    billing.add_overage(user, 1, billing.fake.now, billing.fake.now)
    pay_overage(billing.db, user.id)
    billed = value(billing.db, "select id::text from public.usage_logs where user_id = %s and was_overage", user.id)
    monkeypatch.delenv("STRIPE_SECRET_KEY")
    for query, line in ((queries[0], "given back to the plan"), (billed, "$0.02 is recorded, but not at Stripe yet")):
        status, out, _ = run(capsys, f"{PREFIX}user {user.id} credit-back {query} --reason x --yes", {})
        assert (status, line in out) == (0, True)
    status, _, err = run(capsys, f"{PREFIX}user {user.id} credit-back {billed} --reason x --yes", {})
    assert (status, "given back before" in err, "bill-overages places it" in err) == (1, True, True)
    billing.db.execute("delete from auth.users where id = %s", (user.id,))  # Stripe has no such customer


def test_what_an_ended_subscription_gets_back_is_on_its_own_invoice(
    billing: BillingStack, capsys: pytest.CaptureFixture[str]
) -> None:
    """The output and `why` name it. Its total below zero becomes the customer's balance."""
    user = billing.new_user()
    billing.buy(user, plan="basic")
    assert set(billing.deliver()) == {200}
    start = int(billing.subscription_row(user)["current_period_start"].timestamp())
    billing.add_overage(user, 41, start + DAY, start)
    billing.advance_and_deliver(32 * DAY)
    billing.cancel_subscriptions()
    billing.deliver()
    query = value(billing.db, "select id::text from public.usage_logs where user_id = %s limit 1", user.id)
    status, out, _ = run(capsys, f"{PREFIX}user {user.id} credit-back {query} --reason x --yes", {})
    assert status == 0
    placed = re.search(r"\$0\.02 is a negative item on (in_\w+): do not refund", out)
    assert placed, out
    assert f"on {placed[1]}" in run(capsys, f"{PREFIX}user {user.id} why {query}", {})[1]
    billing.advance_and_deliver(2 * 3600)
    assert stripe_get(billing, f"customers/{billing.customer_id(user)}")["balance"] == -2


def test_an_address_of_two_users_names_none(billing: BillingStack, capsys: pytest.CaptureFixture[str]) -> None:
    """The older one was deleted softly. What changed is printed with the user's name."""
    old, user = billing.new_user(), billing.new_user()
    billing.db.execute(
        "update auth.users set email = %s, is_sso_user = true, deleted_at = now() where id = %s", (user.email, old.id)
    )
    status, out, err = run(capsys, f"{PREFIX}user {user.email} block --reason x", {})
    assert (status, out, "2 users have this e-mail address" in err) == (1, "", True)
    for words in (f"user {old.id}, deleted", f"user {user.id}"):
        assert words in err
    status, out, _ = run(capsys, f"{PREFIX}user {user.id} block --reason x", {})
    assert (status, out.splitlines()[:2]) == (0, [f"{user.email}, user {user.id}", "blocked"])


def test_a_deletion_asks_for_the_address(
    billing: BillingStack, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    user: Person = billing.new_user()
    monkeypatch.setattr("sys.stdin", mock.Mock(readline=lambda: f"{user.email}\n"))
    assert main(["user", user.email, "delete", "--reason", "Asked"]) == 0
    assert f"Type {user.email} to go on:" in capsys.readouterr().err
    assert value(billing.db, "select count(*) from auth.users where id = %s", user.id) == 0


def test_a_reader_may_close_the_output() -> None:
    """As `head` does: no traceback, and no error."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "functions.maintenance", "models"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, cwd=ROOT, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_times_have_four_digits_of_the_year() -> None:
    assert moment("0001-01-01T00:00:00+00:00") == "0001-01-01 00:00:00 UTC"


@pytest.mark.parametrize(
    "wrong", ["user a@b block", "user a@b grant 0 --reason x", "user a@b limit --daily many --reason x", "pause chat"]
)
def test_wrong_arguments_exit_with_two(wrong: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(shlex.split(wrong))
    assert ended.value.code == 2
