"""The actions of a script, performed at Stripe and in the database."""

import asyncio
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from functions.common.billing.overage import bill_overage
from functions.common.billing.stripe_client import Account
from functions.common.database import Database
from tests.billing_kit import DAY, SITE, BillingStack
from tests.functions.billing_histories.expected import TIERS, expected_packs, grace_starts_at
from tests.functions.billing_histories.history import History
from tests.functions.billing_histories.stripe_view import JsonClient, StripeView, Twin
from tests.sql.metering import USAGE, action, admit, value

Json = dict[str, Any]
GRACE_S = 7 * DAY
QUERIES_OF_LIMIT = 400  # $10, the limit of every plan


class Actions:
    """Each method `_<action>` returns a function that performs the action for one twin, or None if it is impossible."""

    billing: BillingStack
    support: JsonClient
    now: int
    owners: dict[str, tuple[History, Twin]]
    prices: dict[str, str]
    loop: asyncio.Runner
    database: Database
    account: Account
    post: Callable[..., list[int]]
    record: Callable[..., None]

    def _subscribe(
        self, history: History, view: StripeView, plan: str, way: str, coupon: Json
    ) -> Callable[[], None] | None:
        return None if view.live else lambda: self.subscribe(view.twin, way, plan, coupon)

    def subscribe(self, twin: Twin, way: str, plan: str, coupon: Json) -> None:
        """Buy a plan at checkout. An open invoice is paid first, on the page that the refusal names."""
        urls = {"success_url": f"{SITE}/done", "cancel_url": f"{SITE}/left"}
        if twin.is_blocked:
            self.expect_block(twin, plan=plan, **urls)
            return
        while (answer := self.billing.call_checkout(twin.person, "/checkout", plan=plan, **urls)).status_code == 402:
            error = answer.json()["error"]
            assert (error["reason_code"], error["action"]) == ("invoice_open", "pay_invoice")
            self.support.http.post(error["url"], data={"way": "good_card"}).raise_for_status()
        self.buy_at_checkout(twin, way, coupon, plan=plan)

    def _buy(self, history: History, view: StripeView, pack: str, way: str, coupon: Json) -> Callable[[], None] | None:
        is_past_due = view.live is not None and view.live["status"] == "past_due"
        if is_past_due and grace_starts_at(view) + GRACE_S <= self.now:
            return None  # the plan would not let the credits be used
        return lambda: self.buy_at_checkout(view.twin, way, coupon, pack=pack)

    def buy_at_checkout(self, twin: Twin, way: str, coupon: Json, **what: str) -> None:
        """Open a checkout page and pay on it, with a promotion code if there is a coupon."""
        if twin.is_blocked:
            self.expect_block(twin, success_url=f"{SITE}/done", cancel_url=f"{SITE}/left", **what)
            return
        url = self.billing.checkout_page(twin.person, **what)
        twin.customer = self.billing.customer_id(twin.person)
        self.owners[url.rpartition("/")[2]] = self.owners[twin.person.id]
        form = {"way": way}
        if coupon:
            promotion = {"type": "coupon", "coupon": self.support.post("coupons", **coupon)["id"]}
            form["code"] = self.support.post(
                "promotion_codes", **{f"promotion[{name}]": text for name, text in promotion.items()}
            )["code"]
        answer = self.support.http.post(url, data=form)
        assert answer.status_code == (402 if way == "bad_card" else 303), answer.text

    def expect_block(self, twin: Twin, **what: str) -> None:
        """Checkout refuses blocked users."""
        answer = self.billing.call_checkout(twin.person, "/checkout", **what)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "account_blocked"), answer.text

    def _change(self, history: History, view: StripeView, to: str, where: str) -> Callable[[], None] | None:
        if not view.live or TIERS[view.product] == to:
            return None
        price = self.prices[f"canadagpt_plan_{to}"]
        if where == "portal":
            return lambda: self.press_portal_button(view, "plan", price=price)
        if view.live["schedule"]:
            return None
        item = view.live["items"]["data"][0]["id"]
        change = {"items[0][id]": item, "items[0][price]": price, "proration_behavior": where}
        return lambda: self.update(view, **change)

    def _invoiced_change(self, history: History, view: StripeView, to: str, refuses: bool) -> Callable[[], None] | None:
        if not view.live or view.live["schedule"] or TIERS[view.product] == to:
            return None
        change = {
            "items[0][id]": view.live["items"]["data"][0]["id"],
            "items[0][price]": self.prices[f"canadagpt_plan_{to}"],
            "proration_behavior": "always_invoice",
            "payment_behavior": "error_if_incomplete" if refuses else "allow_incomplete",
        }
        return lambda: self.update(view, **change)

    def press_portal_button(self, view: StripeView, action: str, **form: str) -> None:
        """Press a button of the customer portal, as publish-catalog configured it."""
        (ours,) = self.support.all("billing_portal/configurations", active="true")
        of_customer = {"customer": view.twin.customer, "configuration": ours["id"]}
        page = self.support.post("billing_portal/sessions", **of_customer)["url"]
        named = action if action.endswith("_card") or not view.live else f"{action}:{view.live['id']}"
        self.support.http.post(page, data={"action": named, **form}).raise_for_status()

    def update(self, view: StripeView, **form: Any) -> None:
        assert view.live
        self.support.post(f"subscriptions/{view.live['id']}", **form)

    def _cancel(self, history: History, view: StripeView, where: str, days: int) -> Callable[[], None] | None:
        if not view.live or view.live["cancel_at"]:
            return None
        if where == "portal":
            return lambda: self.press_portal_button(view, "cancel")
        if view.live["schedule"]:
            return None
        if where == "at_period_end":
            return lambda: self.update(view, cancel_at_period_end="true")
        return lambda: self.update(view, cancel_at=self.now + days * DAY)

    def _resume(self, history: History, view: StripeView) -> Callable[[], None] | None:
        return (lambda: self.press_portal_button(view, "resume")) if view.live and view.live["cancel_at"] else None

    def _cancel_now(self, history: History, view: StripeView, how: str) -> Callable[[], object] | None:
        """A refund is invoiced at once; otherwise a later invoice might include it."""
        if not view.live:
            return None
        invoiced, refunds = how != "as it is", how == "with a refund of the rest"
        params = {"prorate": str(refunds).lower(), "invoice_now": str(invoiced).lower()}
        path = f"/v1/subscriptions/{view.live['id']}"
        return lambda: self.support.http.delete(path, params=params).raise_for_status()

    def _card(self, history: History, view: StripeView, how: str) -> Callable[[], object] | None:
        if not view.twin.customer:
            return None
        if how.startswith("portal"):
            return lambda: self.press_portal_button(view, f"{how.removeprefix('portal_')}_card")
        works = {"works": True, "breaks": False, "gone": None}[how]
        return lambda: self.billing.fake.control(f"/_customers/{view.twin.customer}/card", works=works)

    def _pay(self, history: History, view: StripeView, way: str) -> Callable[[], object] | None:
        owed = view.unpaid_plan_invoices("open")
        if not owed:
            return None
        return lambda: self.support.http.post(f"/i/{owed[-1]['id']}", data={"way": way}).raise_for_status()

    def _refund(self, history: History, view: StripeView, which: int, share: float) -> Callable[[], object] | None:
        return self.refund_payment(view, view.pack_payments(), which, share)

    def _refund_plan(self, history: History, view: StripeView, share: float) -> Callable[[], object] | None:
        return self.refund_payment(view, view.plan_payments(), -1, share)

    def _refund_overage(self, history: History, view: StripeView, share: float) -> Callable[[], object] | None:
        return self.refund_payment(view, view.overage_payments(), -1, share)

    def refund_payment(
        self, view: StripeView, payments: list[str], which: int, share: float
    ) -> Callable[[], object] | None:
        if not payments:
            return None
        payment = payments[which if which < len(payments) else -1]
        amount = max(1, int(view.charges[payment]["amount"] * share))
        return lambda: self.support.post("refunds", payment_intent=payment, amount=amount)

    def _fail_refund(self, history: History, view: StripeView, is_counted: bool) -> Callable[[], object] | None:
        return self.fail_newest_refund(view, view.pack_payments(), is_counted)

    def _fail_plan_refund(self, history: History, view: StripeView, is_counted: bool) -> Callable[[], object] | None:
        return self.fail_newest_refund(view, view.plan_payments(), is_counted)

    def _fail_overage_refund(self, history: History, view: StripeView, is_counted: bool) -> Callable[[], object] | None:
        return self.fail_newest_refund(view, view.overage_payments(), is_counted)

    def fail_newest_refund(
        self, view: StripeView, payments: list[str], is_counted: bool
    ) -> Callable[[], object] | None:
        """The bank returns the money of a refund. `is_counted`: the charge counts the refund all the same."""
        made = [one for payment in payments for one in view.refunds[payment] if one["status"] == "succeeded"]
        if not made:
            return None
        return lambda: self.billing.fake.control(f"/_refunds/{made[-1]['id']}/fail", is_counted=is_counted)

    def _dispute(self, history: History, view: StripeView, which: int, status: str) -> Callable[[], object] | None:
        return self.set_dispute(view.pack_payments(), which, status)

    def _dispute_plan(self, history: History, view: StripeView, status: str) -> Callable[[], object] | None:
        return self.continue_dispute(view, view.plan_payments(), status)

    def _dispute_overage(self, history: History, view: StripeView, status: str) -> Callable[[], object] | None:
        return self.continue_dispute(view, view.overage_payments(), status)

    def continue_dispute(self, view: StripeView, payments: list[str], status: str) -> Callable[[], object] | None:
        """Dispute the newest payment, or go on with the dispute of another one."""
        disputed = [name for name in payments if view.charges[name]["disputed"]]
        return self.set_dispute(disputed or payments, -1, status)

    def set_dispute(self, payments: list[str], which: int, status: str) -> Callable[[], object] | None:
        if not payments:
            return None
        payment = payments[which if which < len(payments) else -1]
        return lambda: self.support.http.post("/_disputes", json={"charge": payment, "status": status})

    def _block(self, history: History, view: StripeView) -> Callable[[], object] | None:
        return self.change_block(history, view, is_blocked=True)

    def _unblock(self, history: History, view: StripeView) -> Callable[[], object] | None:
        return self.change_block(history, view, is_blocked=False)

    def change_block(self, history: History, view: StripeView, *, is_blocked: bool) -> Callable[[], object] | None:
        """What an operator does. Only that ends a block, whatever Stripe's events say."""
        if view.twin.is_blocked == is_blocked:
            return None

        def perform() -> None:
            function = "block_user" if is_blocked else "unblock_user"
            value(self.billing.db, f"select public.{function}(%s, %s)", view.twin.person.id, action("Of the history"))
            view.twin.is_blocked = is_blocked

        return perform

    def _block_finalization(self, history: History, view: StripeView) -> Callable[[], object] | None:
        """Finalization of the renewal's draft fails until it is unblocked."""
        drafts = [one["id"] for one in view.plan_invoices("draft")]
        if not drafts:
            return None
        return lambda: [self.block_invoice(history, name) for name in drafts]

    def block_invoice(self, history: History, name: str) -> None:
        self.billing.fake.control(f"/_invoices/{name}/finalization", fails=True)
        history.unfinalizable.append(name)

    def _unblock_finalization(self, history: History, view: StripeView) -> Callable[[], object] | None:
        names = history.unfinalizable
        return lambda: [
            self.billing.fake.control(f"/_invoices/{names.pop()}/finalization", fails=False) for _ in range(len(names))
        ]

    def _overage(self, history: History, view: StripeView, queries: int) -> Callable[[], object] | None:
        if not view.live or view.live["status"] != "active" or view.live["cancel_at"]:
            return None
        return lambda: self.use_overage(history, view, queries)

    def use_overage(self, history: History, view: StripeView, queries: int) -> None:
        start = view.period[0]
        if view.twin is history.twins[0]:
            history.overage[start, history.thresholds] += queries
        self.billing.add_overage(view.twin.person, queries, self.now, start)

    def _threshold(self, history: History, view: StripeView, is_refused: bool) -> Callable[[], object] | None:
        """Use overage up to the limit, and invoice it as the job bill-thresholds does."""
        if not view.live or view.live["status"] != "active" or view.live["cancel_at"]:
            return None
        return lambda: self.reach_threshold(history, view, is_refused)

    def reach_threshold(self, history: History, view: StripeView, is_refused: bool) -> None:
        """All events are delivered first: until then the second twin's renewal has not billed its last period.
        `is_refused`: the bank refuses this payment."""
        twin = view.twin
        self.deliver_waiting(history, twin, "before the threshold")
        self.use_overage(history, view, QUERIES_OF_LIMIT)
        listed = "select array_agg(user_id::text) as ids from public.users_at_threshold(null, 1000)"
        row = self.billing.db.execute(listed).fetchone()
        assert row
        assert twin.person.id in row["ids"]
        card = f"/_customers/{twin.customer}/card"
        if is_refused:
            self.billing.fake.control(card, works=False)
        self.loop.run(bill_overage(self.database, self.account, twin.person.id, twin.customer, at_once=True))
        if is_refused:
            self.billing.fake.control(card, works=True)
        history.thresholds += twin is history.twins[1]

    def _pay_overage(self, history: History, view: StripeView, way: str) -> Callable[[], object] | None:
        """Pay the oldest open invoice for overage on its page, or void it as support does."""
        owed = view.overage_invoices("open")
        if not owed:
            return None
        if way == "void":
            return lambda: self.support.post(f"invoices/{owed[0]['id']}/void")
        return lambda: self.support.http.post(f"/i/{owed[0]['id']}", data={"way": way}).raise_for_status()

    def _spend(self, history: History, view: StripeView, credits: int) -> Callable[[], object] | None:  # noqa: A002
        """Use credits. All events are delivered first, so that both twins pay with the same packs."""
        if view.live or not view.sales:
            return None
        return lambda: self.use_credits(history, view, credits)

    def use_credits(self, history: History, view: StripeView, credits: int) -> None:  # noqa: A002
        self.deliver_waiting(history, view.twin, "before credits are used")
        if view.twin.is_blocked:
            with pytest.raises(psycopg.Error, match="blocked"):
                admit(self.billing.db, view.twin.person.id)
            return
        packs = expected_packs(view, self.used(view.twin))
        left = sum(pack["remaining"] for pack in packs if not pack["frozen"])
        admitted = self.billing.db.execute(
            "with queries as materialized ("
            "  select q.id, public.admit_query(%s, q.id::text, q.id) as admitted"
            "  from (select gen_random_uuid() as id from generate_series(1, %s)) q)"
            " select admitted ->> 'funding' as funding, public.settle_query(id, 'answered', %s) from queries",
            (view.twin.person.id, min(credits, left), USAGE),
        ).fetchall()
        assert {row["funding"] for row in admitted} <= {"credit"}

    def deliver_waiting(self, history: History, twin: Twin, way: str) -> None:
        """Deliver the waiting events of the second twin."""
        waiting = history.waiting()
        if twin is history.twins[1] and waiting:
            self.record(history, waiting, self.post(*(event.id for event in waiting)), way)

    def used(self, twin: Twin) -> dict[str, int]:
        """The credits used of each pack according to the ledger, by session."""
        rows = self.billing.db.execute(
            "select c.stripe_checkout_session_id as session, count(*) as used"
            " from public.usage_logs u join public.credit_packs c on c.id = u.credit_pack_id"
            " where u.user_id = %s and u.outcome = 'answered' group by 1",
            (twin.person.id,),
        ).fetchall()
        return {row["session"]: row["used"] for row in rows}

    def _allow(self, history: History, view: StripeView, allow_overages: bool) -> Callable[[], object] | None:
        return lambda: self.allow_overage(view.twin, allow_overages)

    def allow_overage(self, twin: Twin, allow_overages: bool) -> None:
        body = {"allow_overages": allow_overages}
        answer = self.billing.checkout.patch("/overage", json=body, headers=twin.person.headers)
        assert answer.status_code == (403 if twin.is_blocked else 200), answer.text

    def _wait(self, history: History, view: StripeView) -> Callable[[], None] | None:
        return lambda: None

    def _delete(self, history: History, view: StripeView) -> Callable[[], object] | None:
        return (lambda: self.delete(view.twin)) if view.twin.customer else None

    def delete(self, twin: Twin) -> None:
        self.support.http.delete(f"/v1/customers/{twin.customer}").raise_for_status()
        twin.is_deleted = True
