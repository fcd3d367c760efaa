"""What Stripe has about a user, read through its API."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import httpx

from tests.conftest import Person
from tests.local.stripe.kit import KEY

Json = dict[str, Any]
BANK_HAS_MONEY = {"needs_response", "under_review", "lost"}
ENDED = ("canceled", "incomplete_expired")


class JsonClient:
    """A client of Stripe's API that returns plain JSON."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=60)

    def all(self, path: str, **params: Any) -> list[Json]:
        """A list, oldest first."""
        page = self.http.get(f"/v1/{path}", params={"limit": 100, **params}).raise_for_status().json()
        assert not page["has_more"]
        found: list[Json] = page["data"]
        return found[::-1]

    def post(self, path: str, **form: Any) -> Json:
        answer = self.http.post(f"/v1/{path}", data=form)
        assert answer.status_code < 500, answer.text
        content: Json = answer.json()
        return content


@dataclass(slots=True)
class Twin:
    """A user and their customer at Stripe."""

    person: Person
    customer: str = ""
    is_deleted: bool = False
    is_blocked: bool = False


class StripeView:
    """What Stripe has about a twin. Each kind is read on first use."""

    def __init__(self, support: JsonClient, twin: Twin) -> None:
        self.support, self.twin = support, twin

    def _all(self, path: str, **params: Any) -> list[Json]:
        twin = self.twin
        return self.support.all(path, customer=twin.customer, **params) if twin.customer and not twin.is_deleted else []

    @cached_property
    def subscriptions(self) -> list[Json]:
        return self._all("subscriptions", status="all")

    @cached_property
    def invoices(self) -> list[Json]:
        """With their payments."""
        return self._all("invoices", **{"expand[]": "data.payments"})

    @cached_property
    def items(self) -> list[Json]:
        return self._all("invoiceitems")

    @cached_property
    def balance(self) -> int:
        """What the customer owes beside open invoices, cents. Negative: their credit."""
        found: int = self.support.http.get(f"/v1/customers/{self.twin.customer}").raise_for_status().json()["balance"]
        return found

    @cached_property
    def sales(self) -> list[Json]:
        """The sessions that sold a pack, in the order of their creation. One that a code made free has no payment."""
        params = {"customer": self.twin.customer, "limit": 100}
        if not self.twin.customer:
            return []
        found = self.support.http.get("/v1/checkout/sessions", params=params).raise_for_status().json()["data"]
        sold = [one for one in found[::-1] if one["mode"] == "payment" and one["status"] == "complete"]
        return [one for one in sold if one["payment_status"] in ("paid", "no_payment_required")]

    @cached_property
    def charges(self) -> dict[str, Json]:
        """Charges that succeeded, by their payment intents."""
        params = {"customer": self.twin.customer, "limit": 100}
        if not self.twin.customer:
            return {}
        found = self.support.http.get("/v1/charges", params=params).raise_for_status().json()["data"]
        return {one["payment_intent"]: one for one in found[::-1] if one["paid"]}

    @cached_property
    def refunds(self) -> dict[str, list[Json]]:
        """The refunds of each payment intent, oldest first."""
        return {name: self.support.all("refunds", payment_intent=name) for name in self.charges}

    def refunded_cents(self, payment: str) -> int:
        """What the payer has back: without refunds that the bank returned to us."""
        return sum(one["amount"] for one in self.refunds[payment] if one["status"] == "succeeded")

    @cached_property
    def refunded_invoices(self) -> set[str]:
        """The invoices whose payments were refunded in full."""
        refunded = {name for name, charge in self.charges.items() if self.refunded_cents(name) == charge["amount"]}
        return {one["id"] for one in self.invoices if refunded & {*self.payments_of(one)}}

    @property
    def returned_invoices(self) -> set[str]:
        """The invoices whose payments the payer has back: refunded in full, or taken by their bank."""
        disputed = [name for name, charge in self.charges.items() if charge["disputed"]]
        taken = {name for name in disputed if {one["status"] for one in self.disputes(name)} & BANK_HAS_MONEY}
        return self.refunded_invoices | {one["id"] for one in self.invoices if taken & {*self.payments_of(one)}}

    @staticmethod
    def payments_of(invoice: Json) -> list[str]:
        """The payment intents of an invoice."""
        return [one["payment"]["payment_intent"] for one in invoice["payments"]["data"]]

    def disputes(self, payment: str) -> list[Json]:
        return self.support.all("disputes", payment_intent=payment)

    @property
    def live(self) -> Json | None:
        """The subscription that has not ended."""
        return next((one for one in self.subscriptions if one["status"] not in ENDED), None)

    @property
    def live_invoices(self) -> list[Json]:
        """The invoices of the live subscription, oldest first."""
        live = self.live["id"] if self.live else None
        parents = [(one, one["parent"]) for one in self.invoices if one["parent"]]
        return [one for one, parent in parents if parent["subscription_details"]["subscription"] == live]

    @property
    def product(self) -> str:
        """The product of the live subscription."""
        assert self.live
        return str(self.live["items"]["data"][0]["price"]["product"])

    def product_from(self, time: int) -> str | None:
        """The product that the schedule of the live subscription starts at that time."""
        assert self.live
        if not self.live["schedule"]:
            return None
        read = self.support.http.get
        schedule = read(f"/v1/subscription_schedules/{self.live['schedule']}").raise_for_status().json()
        prices = [one["items"][0]["price"] for one in schedule["phases"] if one["start_date"] == time]
        return str(read(f"/v1/prices/{prices[0]}").raise_for_status().json()["product"]) if prices else None

    @property
    def period(self) -> tuple[int, int]:
        assert self.live
        item = self.live["items"]["data"][0]
        return item["current_period_start"], item["current_period_end"]

    def pack_payments(self) -> list[str]:
        """The payment intents of packs, oldest first."""
        return [one["payment_intent"] for one in self.sales if one["payment_intent"]]

    def plan_payments(self) -> list[str]:
        """The payment intents of plan invoices, oldest first."""
        others = {*self.pack_payments(), *self.overage_payments()}
        return [name for name in self.charges if name not in others]

    def overage_payments(self) -> list[str]:
        """The payment intents of invoices for overage alone, oldest first."""
        paid = {name for one in self.overage_invoices("paid") for name in self.payments_of(one)}
        return [name for name in self.charges if name in paid]

    def overage_invoices(self, *statuses: str) -> list[Json]:
        """The invoices that no subscription made."""
        return [one for one in self.invoices if not one["parent"] and one["status"] in statuses]

    def plan_invoices(self, *statuses: str) -> list[Json]:
        return [one for one in self.invoices if one["parent"] and one["status"] in statuses]

    def unpaid_plan_invoices(self, *statuses: str) -> list[Json]:
        """Without those of ended subscriptions: which event voids them depends on deliveries."""
        return [one for one in self.live_invoices if one["status"] in statuses]

    def subscription_states(self) -> Any:
        """The states of the subscriptions and of their open payments, without ids. Actions depend on them."""
        created = {one["id"]: one["created"] for one in self.subscriptions}
        return (
            [
                (
                    *(one["created"], one["status"], one["cancel_at"], one["schedule"] is not None),
                    one["items"]["data"][0]["price"]["product"],
                )
                for one in self.subscriptions
            ],
            sorted(
                (
                    created[one["parent"]["subscription_details"]["subscription"]],
                    one["billing_reason"],
                    one["status"],
                    one["attempt_count"],
                    one["next_payment_attempt"] is None,
                )
                for one in self.unpaid_plan_invoices("draft", "open")
            ),
        )
