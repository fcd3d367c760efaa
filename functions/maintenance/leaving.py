"""export-user and delete-user: the right to know and the right to leave.

A deletion killed anywhere is started again and goes on: each step finds out what is left of it. Nothing is deleted
before the subscription has ended at Stripe and what is owed is billed, or written off by name.
"""

import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from stripe import InvalidRequestError, StripeClient

from functions.common.billing.events import apply_customer
from functions.common.billing.look import live_subscription
from functions.common.billing.overage import bill_overage
from functions.common.database import Database
from functions.common.errors import NotFound

# The parts of an export in the order of the file, and how many rows of each come at once.
PARTS = {
    "account": 1,
    "subscription": 1,
    "keys": 10,
    "packs": 500,
    "bills": 500,
    "conversations": 20,
    "usage": 1000,
    "running": 100,
    "refusals": 100,
}
PAGE_S = 30.0


async def export_user(database: Database, user_id: str, to: Path, progress: Callable[[str], None]) -> dict[str, Any]:
    """Write everything that is held on a user into one JSON file. Returns how many rows of each part.

    The file appears when it is whole, and only its owner may read it. Money is text, exact. Raises NotFound,
    Unavailable.
    """
    if await database.call("billing_profile", {"p_user_id": user_id}, idempotent=True) is None:
        raise NotFound("There is no such user.")
    unfinished = to.with_name(f".{to.name}.unfinished")
    counts: dict[str, int] = {}
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        separator = "{\n"
        for part in PARTS:
            counts[part] = 0
            file.write(f'{separator}"{part}": [')
            async for row in _rows(database, user_id, part):
                file.write(",\n" if counts[part] else "\n")
                file.write(json.dumps(row, ensure_ascii=False, indent=2))
                counts[part] += 1
            file.write("]")
            separator = ",\n"
            progress(f"export-user: {counts[part]:,} rows of {part}")
        file.write("\n}\n")
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(to)
    return counts


async def _rows(database: Database, user_id: str, part: str) -> AsyncIterator[Any]:
    after: str | None = None
    while True:
        params = {"p_user_id": user_id, "p_part": part, "p_after": after, "p_limit": PARTS[part]}
        page = await database.call("export_user", params, timeout_s=PAGE_S, idempotent=True)
        for row in page:
            yield json.loads(row["told"], parse_float=str)
        if len(page) < PARTS[part]:
            return
        after = page[-1]["id"]


async def delete_user(
    database: Database, stripe: StripeClient, user_id: str, progress: Callable[[str], None], *, write_off: bool = False
) -> dict[str, Any]:
    """End a user's subscription, bill what they owe, and delete all that is theirs. The ledger's sums stay.

    Returns `{"subscriptions", "items", "conversations", "users"}`: ended at Stripe, put on a last invoice, deleted.
    `write_off`: what they owe is not billed. Again, for who is gone: all 0. Raises Forbidden where something is still
    owed, StripeError, Unavailable: the same again goes on where it ended.
    """
    counts = {"subscriptions": 0, "items": 0, "conversations": 0, "users": 0}
    profile = await database.call("billing_profile", {"p_user_id": user_id}, idempotent=True)
    if profile is None:
        return counts
    customer_id = profile["stripe_customer_id"]
    if customer_id is not None:
        counts["subscriptions"] = await _cancel(stripe, customer_id)
        sequence = await database.call("begin_stripe_look", idempotent=True)
        await apply_customer(database, stripe, customer_id, sequence)
        progress(f"delete-user: {counts['subscriptions']} subscriptions ended")
        if not write_off:
            billed = await bill_overage(database, stripe, user_id, customer_id)
            counts["items"] = billed.placed
            progress(f"delete-user: {billed.placed} items billed")
    while True:
        params = {"p_user_id": user_id}
        batch = await database.call("delete_history", params, timeout_s=PAGE_S, idempotent=True)
        if not batch:
            break
        counts["conversations"] += batch
        progress(f"delete-user: {counts['conversations']:,} conversations deleted")
    last = {"p_user_id": user_id, "p_write_off": write_off}
    counts["users"] = int(await database.call("delete_user", last, timeout_s=PAGE_S, idempotent=True))
    return counts


async def _cancel(stripe: StripeClient, customer_id: str) -> int:
    """End what is live at Stripe, at once and without a credit. Returns how many subscriptions that were."""
    ended = 0
    while True:
        _, live = await live_subscription(stripe, customer_id)
        if live is None:
            return ended
        try:
            await stripe.v1.subscriptions.cancel_async(live.id, {"invoice_now": False, "prorate": False})
        except InvalidRequestError as error:
            if error.code != "resource_missing":
                raise
        ended += 1
