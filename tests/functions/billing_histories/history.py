"""A history: two users, their script, the events of the second one, and a log of both."""

import heapq
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from functions.common.billing.events import OVERAGE_EVENTS
from tests.functions.billing_histories.script import (
    Action,
)
from tests.functions.billing_histories.stripe_view import Twin

Json = dict[str, Any]


@dataclass(slots=True, eq=False)
class Event:
    """An event of the second twin, with its own random generator. `payment`: its payment intent, if it has one."""

    number: int
    id: str
    type: str
    payment: str | None
    rng: random.Random
    tries: int = 0
    accepted: bool = False

    def __str__(self) -> str:
        return f"#{self.number} {self.type}"


@dataclass
class History:
    """The same script for two users. `deliveries` is a heap of planned deliveries of the second twin's events.

    `overage`: queries by the start of their period and the number of invoices at the threshold before them.
    """

    seed: str
    twins: tuple[Twin, Twin]
    actions: list[Action]
    bills_immediately: bool
    next_action_at: int
    done: int = 0
    differs_since: int = 0
    overage: Counter[tuple[int, int]] = field(default_factory=Counter)
    thresholds: int = 0
    unfinalizable: list[str] = field(default_factory=list)
    events: dict[str, Event] = field(default_factory=dict)
    deliveries: list[tuple[int, int, str]] = field(default_factory=list)
    action_log: list[str] = field(default_factory=list)
    delivery_log: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        return self.done == len(self.actions)

    def waiting(self) -> list[Event]:
        return [event for event in self.events.values() if not event.accepted]

    def deliver_at(self, at: int, event: Event) -> None:
        heapq.heappush(self.deliveries, (at, event.number, event.id))


def calls_for(event: Event) -> tuple[list[str], list[tuple[str, str]]]:
    """The database calls and Stripe requests that processing an event may need."""
    if event.payment:
        ours = ["claim_stripe_event", "apply_pack", "finish_stripe_event"]
        return ours, [("GET", "/v1/checkout/sessions"), ("GET", "/v1/payment_intents"), ("GET", "/v1/disputes")]
    ours = ["claim_stripe_event", "apply_customer", "finish_stripe_event"]
    stripes = [("GET", "/v1/customers"), ("GET", "/v1/invoices")]
    if event.type in OVERAGE_EVENTS:
        ours += ["claim_overage", "place_overage", "place_overage", "retarget_overage"]
        stripes += [("GET", "/v1/invoiceitems"), ("POST", "/v1/invoices"), *[("POST", "/v1/invoiceitems")] * 3]
    return ours, stripes


def show(thing: Any) -> str:
    if isinstance(thing, dict):
        return "{" + ", ".join(f"{name}: {show(value)}" for name, value in thing.items()) + "}"
    if isinstance(thing, list | tuple):
        return f"[{', '.join(map(show, thing))}]"
    return str(thing)


def describe(history: History) -> str:
    """A failed history as text."""
    return "\n".join(
        [
            f"history {history.seed}{', bills immediately' if history.bills_immediately else ''}",
            *(f"  {line}" for line in history.action_log),
            "deliveries to the second twin:",
            *(f"  {line}" for line in history.delivery_log),
            "problems:",
            *(f"  {line}" for line in history.problems),
        ]
    )
