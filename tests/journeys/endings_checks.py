"""What is checked of each ending: the response, the stored turn, the ledger and the counters."""

from typing import Any

from infra.local.model import tokens
from tests.journeys.endings_client import Cell, Db, Received, check_protocol
from tests.journeys.endings_table import (
    ALL_CREDITS,
    FOUND,
    FULL_ANSWER,
    LIMIT,
    NO_TEXT,
    NOT_FOUND,
    NOTHING_PAID,
    REFUSED,
    WRITTEN_BY,
)


def amount(text: str, question: str) -> str:
    """How much of the provider's answer a text is, as in the table."""
    whole = FULL_ANSWER.format(question=question)
    for sentence, name in ((LIMIT, "limit"), (NO_TEXT, "no text"), (REFUSED, "refused")):
        if text.endswith(sentence):
            before = text.removesuffix(sentence)
            return f"{amount(before, question)}+{name}" if before else name
    if not text:
        return "none"
    is_after_tools = text.startswith((FOUND, NOT_FOUND))
    if text == whole or (is_after_tools and text.endswith(WRITTEN_BY)):
        return "whole"
    if text == whole[: len(whole) // 2]:
        return "half"
    return "part" if whole.startswith(text) or is_after_tools else text


def delivered(text: str, tools: str) -> str:
    """What reached the user, as in the page. The arguments: those columns of the table."""
    parts = ["text"] if text.split("+")[0] not in ("none", "limit", "no text", "refused") else []
    parts += ["results"] if set(tools) & set("+!") else []
    return ", ".join(parts) or "nothing"


def yes_or_no(flag: bool) -> str:
    return "yes" if flag else "no"


def counters(cell: Cell, row: dict[str, Any]) -> str:
    """Whether the query is paid, given back or neither; otherwise the counters that were found."""
    (state,) = cell.all_of("select * from public.user_subscriptions where user_id = %s")
    packs = cell.all_of("select * from public.credit_packs where user_id = %s")
    found = {
        "today": str(state["quota_used"]),
        "life": str(state["lifetime_used"]),
        "overage": str(state["current_overage_amount"]),
        "credits": "".join(f"{pack['credits_remaining']}+{pack['credits_used']}" for pack in packs) or "-",
        "counted": yes_or_no(row["counted_against_quota"]),
        "was_overage": yes_or_no(row["was_overage"]),
        "charge": str(row["overage_charge"]),
    }
    assert row["credit_pack_id"] == (packs[0]["id"] if packs else None)
    paid = {name: cell.payer[name] for name in found}
    given_back = {**NOTHING_PAID, "credits": "-" if paid["credits"] == "-" else ALL_CREDITS}
    if paid == given_back:
        return "same" if found == paid else str(found)
    return {str(paid): "paid", str({name: given_back[name] for name in found}): "back"}.get(str(found), str(found))


def cost(row: dict[str, Any], asked: int, step_tokens: int) -> str:
    """The number of steps whose tokens are in the ledger. Each step reads a little more than `step_tokens`."""
    counted = [row[name] for name in ("tokens_input", "tokens_output", "cost_usd")]
    if not any(counted):
        return "0"
    return str(min(asked, row["tokens_input"] // step_tokens)) if all(counted) else str(counted)


def stored(cell: Cell, received: Received, row: dict[str, Any]) -> str:
    """What is stored of the turn. Checks that it equals what was sent, with all references."""
    conversations = cell.all_of("select id, message_count from public.conversations where user_id = %s")
    messages = cell.all_of(
        "select m.* from public.messages m join public.conversations c on c.id = m.conversation_id"
        " where c.user_id = %s order by m.position"
    )
    if not messages:
        assert conversations == []
        assert (row["conversation_id"], row["message_id"]) == (None, None)
        return "none"
    text = FULL_ANSWER.format(question=cell.question) if received.disconnected else received.text
    found = [(message["role"], message["content"]) for message in messages]
    if found != [("user", cell.question), ("assistant", text)]:
        return str(found)
    asked, answer = messages
    assert asked["external_id"] == cell.body["messages"][0]["id"]
    assert [(str(chat["id"]), chat["message_count"]) for chat in conversations] == [(cell.chat_id, 2)]
    assert (str(row["conversation_id"]), row["message_id"]) == (cell.chat_id, answer["id"])
    if received.parts:
        assert str(answer["id"]) == received.parts[0]["messageId"]
    for name in ("provider", "model", "used_byo_key", "tokens_input", "tokens_output", "cost_usd", "finish_reason"):
        assert answer[name] == row[name], name
    calls = [(call["id"], call["name"], call["input"]) for call in answer["function_calls"] or []]
    sent = received.all_of("tool-input-available")
    assert calls == [(part["toolCallId"], part["toolName"], part["input"]) for part in sent]
    results = answer["function_results"] or []
    sent = received.all_of("tool-output-available", "tool-output-error")
    assert [(result["id"], result.get("output"), result.get("error")) for result in results] == [
        (part["toolCallId"], part.get("output"), part.get("errorText")) for part in sent
    ]
    sources = [(source["url"], source["title"]) for result in results for source in result["sources"]]
    assert list(dict.fromkeys(sources)) == [(part["url"], part["title"]) for part in received.all_of("source-url")]
    return "both"


def ledger(cell: Cell) -> dict[str, Any]:
    """The query's only row of the ledger. Checks what all endings have in common."""
    (row,) = cell.all_of("select * from public.usage_logs where user_id = %s")
    assert row["request_id"] == cell.body["messages"][0]["id"]
    common = (row["funding"], row["tier"], row["provider"], row["used_byo_key"])
    funding = cell.payer["funding"]
    assert common == (funding, cell.payer["tier"], cell.provider, funding == "byok")
    assert cell.all_of("select id from public.query_holds where user_id = %s") == []
    assert cell.all_of("select id from public.query_refusals where user_id = %s") == []
    return row


def check_metadata(received: Received, row: dict[str, Any]) -> None:
    """Check that the metadata equal the ledger, and that an error mentions that nothing was charged."""
    metadata = received.metadata
    if row["outcome"] == "failed":
        (sentence,) = [part["errorText"] for part in received.all_of("error")] or [received.error["message"]]
        assert "Nothing was charged" in sentence
    if metadata is None:
        return
    assert metadata["request_id"] == received.request_id
    for name in ("provider", "model", "funding"):
        assert metadata[name] == row[name]
    assert metadata["charged_usd"] == row["overage_charge"]
    assert metadata["persisted"] == (row["message_id"] is not None)
    assert metadata.get("outcome") == ("lost" if row["outcome"] == "lost" else None)
    if row["outcome"] != "lost":
        assert metadata["finish_reason"] == row["finish_reason"]
    if row["outcome"] != "lost":  # the ledger does not have them
        assert metadata["cost_usd"] == row["cost_usd"]
        assert metadata["usage"] == {
            "input_tokens": row["tokens_input"],
            "output_tokens": row["tokens_output"],
            "cache_read_tokens": row["cache_read_tokens"],
            "cache_write_tokens": row["cache_write_tokens"],
        }


def check_disconnected(cell: Cell, received: Received, row: dict[str, Any]) -> None:
    """Check that the turn read the provider's whole response and counted it, without a client."""
    whole = FULL_ANSWER.format(question=cell.question)
    assert whole.startswith(received.text)
    assert row["tokens_output"] == tokens(whole)
    (asked,) = cell.asked()
    assert (asked["finished"], asked["aborted"]) == (True, False)


def expected(cell: Cell, row: dict[str, str]) -> str:
    """The table's row for one cell."""
    is_charged = row["charged"] == "yes"
    kept = "both" if is_charged and cell.keeps else "none"
    paid = "same" if cell.payer["funding"] == "byok" else "paid" if is_charged else "back"
    names = ("on the wire", "text", "tools", "ask", "delivered", "outcome", "finish reason", "cost")
    return line(cell, [*(row[name] for name in names), kept, paid])


def found(
    cell: Cell, ending: dict[str, str], responses: list[Received], journal: list[dict[str, Any]], step_tokens: int
) -> str:
    """The row that was found."""
    first, *others = responses
    row = ledger(cell)
    if first.disconnected:
        check_disconnected(cell, first, row)
    elif first.status == 200:
        check_protocol(first)
    check_metadata(first, row)
    assert row["is_charged"] == (row["outcome"] in ("answered", "stopped"))
    asked = [entry for entry in journal if any(cell.question in message["text"] for message in entry["messages"])]
    assert {(entry["provider"], entry["api_key_last4"]) for entry in asked} == {(cell.provider, cell.account)}
    on_the_wire = ", ".join([first.wire, *(str(received.status) for received in others)])
    text = "whole" if first.disconnected else amount(first.text, cell.question)
    reached = "-" if ending["delivered"] == "-" else delivered(text, first.tools)
    ended = [reached, row["outcome"], row["finish_reason"] or "-", cost(row, len(asked), step_tokens)]
    kept = [stored(cell, first, row), counters(cell, row)]
    return line(cell, [on_the_wire, text, first.tools, str(len(asked)), *ended, *kept])


def line(cell: Cell, values: list[str]) -> str:
    return "  ".join([f"{cell!s:<28}", f"{values[0]:<22}", *values[1:]])


def inconsistent_counters(db: Db, cells: list[Cell]) -> list[dict[str, Any]]:
    """The rows of reconcile() for these users. Other tests of this stack set counters as they like."""
    users = [cell.person.id for cell in cells]
    return db.execute("select * from public.reconcile() where user_id = any(%s::uuid[])", (users,)).fetchall()
