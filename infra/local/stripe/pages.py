"""The pages for people: checkout, billing portal, invoice, and at `/` the clock and the newest objects.

Plain HTML with buttons, no script. As at Stripe, the browser returns to the shop once the webhook endpoint has answered
`checkout.session.completed`, or ten seconds later.
"""

import asyncio
import html
from collections.abc import Sequence
from datetime import UTC, datetime
from string import Template

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from infra.local.stripe import checkout, forms, portal
from infra.local.stripe.clock import DAY, HOUR
from infra.local.stripe.errors import DECLINED, ApiError, Json
from infra.local.stripe.invoice_lifecycle import intent_of
from infra.local.stripe.state import RequestInfo, State
from infra.local.stripe.subscription_items import item_amount, items_of, period_of
from infra.local.stripe.taxes import PROVINCES
from infra.local.stripe.webhooks import WebhookSender

WEBHOOK_TIMEOUT = 10  # seconds that a buyer waits for the webhooks of the shop

PAGE = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>$title</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; margin: 0; background: #f6f7fb; color: #1f2333; }
  main { max-width: $width; margin: 3rem auto; padding: 2rem; background: #fff; border-radius: .8rem;
         box-shadow: 0 1px 4px #0002; }
  h1 { font-size: 1.3rem; margin: 0 0 1rem; }
  h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
  table { width: 100%; border-collapse: collapse; }
  td, th { padding: .4rem .8rem .4rem 0; border-bottom: 1px solid #e6e8f0; text-align: left; vertical-align: top; }
  td:last-child, th:last-child { text-align: right; padding-right: 0; }
  .total { font-size: 1.6rem; font-weight: 600; }
  .note { color: #5a6072; font-size: .9rem; }
  .notice { padding: .6rem 1rem; border-radius: .4rem; background: #fff3d6; }
  button { display: block; width: 100%; margin: .5rem 0; padding: .7rem 1rem; font: inherit; border-radius: .4rem;
           border: 1px solid #c9cede; background: #fff; cursor: pointer; text-align: left; }
  button.main { background: #4b52d8; border-color: #4b52d8; color: #fff; font-weight: 600; }
  button:hover { filter: brightness(.96); }
  .row { display: flex; gap: .5rem; } .row button { text-align: center; }
  select { font: inherit; padding: .6rem; width: 100%; }
</style>
<main>
<h1>$title</h1>
$body
<p class="note">A stand-in for Stripe on this computer: no money moves.</p>
</main>
</html>
""")


def page(title: str, body: str, status: int = 200, width: str = "30rem") -> HTMLResponse:
    text = PAGE.substitute(title=html.escape(title), body=body, width=width)
    return HTMLResponse(text, status, headers={"cache-control": "no-store"})


def money(amount: int, currency: str) -> str:
    return f"{'-' if amount < 0 else ''}${abs(amount) / 100:,.2f} {currency.upper()}"


def day(at: int) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%d %b %Y %H:%M}"


def button(name: str, value: str, label: str, main: bool = False) -> str:
    style = ' class="main"' if main else ""
    return f'<button{style} name="{name}" value="{html.escape(value)}">{html.escape(label)}</button>'


def _province_field(session: Json) -> str:
    """The part of the billing address that tells the tax: by default the customer's, or Ontario."""
    address = (session["customer_details"] or {}).get("address") or {}
    chosen = address.get("state") or "ON"
    options = "".join(f"<option{' selected' if name == chosen else ''}>{name}</option>" for name in PROVINCES)
    return f'<label>Province <select name="province">{options}</select></label>'


def rows(lines: Sequence[tuple[str, ...]]) -> str:
    return "".join("<tr>" + "".join(f"<td>{html.escape(cell)}" for cell in line) for line in lines)


def notice(message: str) -> str:
    return f'<p class="notice" role="alert">{html.escape(message)}</p>' if message else ""


class Pages:
    def __init__(self, state: State, webhooks: WebhookSender) -> None:
        self.state, self.webhooks = state, webhooks

    def routes(self) -> list[Route]:
        both = ["GET", "POST"]
        return [
            Route("/", self.home, methods=both),
            Route("/c/pay/{id}", self.checkout, methods=both),
            Route("/p/session/{id}", self.portal, methods=both),
            Route("/i/{id}", self.invoice, methods=both),
        ]

    async def _form(self, request: Request) -> Json:
        """The submitted form. Its events name no API request."""
        self.state.request = RequestInfo()
        self.state.changes += 1
        return forms.parse((await request.body()).decode())

    async def _wait_for_webhooks(self) -> None:
        """Wait until the shop has received its webhooks, or until the time-out."""
        try:
            await asyncio.wait_for(self.webhooks.wait_until_idle(), WEBHOOK_TIMEOUT)
        except TimeoutError:
            return

    def _find(self, kind: str, object_id: str) -> Json | None:
        found = self.state.objects.get(object_id)
        return found if found and found["object"] == kind and "_deleted" not in found else None

    # --- checkout ----------------------------------------------------------------------------------------------------

    async def checkout(self, request: Request) -> Response:
        session = self._find("checkout.session", request.path_params["id"])
        if session is None:
            return page("Something went wrong", "<p>There is no such checkout page.", 404)
        declined = ""
        if request.method == "POST":
            form = await self._form(request)
            choice, province = form.get("way"), form.get("province")
            if choice == "leave":
                if session["cancel_url"]:
                    return RedirectResponse(session["cancel_url"], 303)
                return page("Checkout", "<p>You left without paying.")
            if choice not in checkout.CHOICES or province not in (None, *PROVINCES):
                return page("Something went wrong", "<p>There is no such button or province.", 400)
            if session["status"] == "open":
                try:
                    code = str(form.get("code", ""))
                    paid = checkout.pay(self.state, session, choice, province, code)
                except ApiError as error:
                    return page("Something went wrong", notice(str(error)), 400)
                if paid:
                    await self._wait_for_webhooks()
                    url = session["success_url"].replace("{CHECKOUT_SESSION_ID}", session["id"])
                    return RedirectResponse(url, 303)
                declined = DECLINED
        if session["status"] != "open":
            message = "You have already paid." if session["status"] == "complete" else "This checkout page has expired."
            return page("Checkout", notice(message), 410)
        body = self._offer(session) + notice(declined) + self._choices(session)
        return page("Checkout", body, 402 if declined else 200)

    def _offer(self, session: Json) -> str:
        lines = []
        for line in session["_lines"]:
            price = line["price"]
            interval = f" / {price['recurring']['interval']}" if price["recurring"] else ""
            amount = money(line["amount_subtotal"], line["currency"])
            lines.append((f"{line['quantity']} × {line['description']}", amount + interval))
        if tax := session["total_details"]["amount_tax"]:
            lines.append(("Tax", money(tax, session["currency"])))
        details = session["customer_details"] or {}
        buyer = f'<p class="note">For {html.escape(details["email"])}</p>' if details.get("email") else ""
        total = money(session["amount_total"], session["currency"])
        return f'<table>{rows(lines)}</table><p class="total">{total} today</p>{buyer}'

    def _choices(self, session: Json) -> str:
        free = not session["amount_total"]
        labels = [("good_card", "Subscribe with a good card" if free else "Pay with a good card")]
        if session["_collects"]:
            labels.append(("bad_card", "Pay with a card that fails"))
            labels.append(("confirmed_card", "Pay with a card whose bank asks, and confirm"))
        if not free:
            labels.append(("later_succeeds", "Pay later (async), succeeds"))
            labels.append(("later_fails", "Pay later (async), fails"))
        labels.append(("leave", "Leave without paying"))
        buttons = "".join(button("way", choice, label, choice == "good_card") for choice, label in labels)
        address = _province_field(session) if session["automatic_tax"]["enabled"] else ""
        code = '<label>Promotion code<input name="code"></label>' if session["allow_promotion_codes"] else ""
        return f'<form method="post">{code}{address}{buttons}</form>'

    # --- portal ------------------------------------------------------------------------------------------------------

    async def portal(self, request: Request) -> Response:
        session = self._find("billing_portal.session", request.path_params["id"])
        if session is None or not self._find("customer", session["customer"]):
            return page("Something went wrong", "<p>There is no such portal page.", 404)
        message = ""
        if request.method == "POST":
            form = await self._form(request)
            action, _, subscription = str(form.get("action", "")).partition(":")
            if action == "back":
                return RedirectResponse(session["return_url"] or "/", 303)
            try:
                message = portal.press(self.state, session, action, subscription, str(form.get("price", "")))
            except ApiError as error:
                message = str(error)
            await self._wait_for_webhooks()
        return page("Your subscription", notice(message) + self._portal_body(session))

    def _portal_body(self, session: Json) -> str:
        parts = [
            self._portal_subscription(subscription) for subscription in portal.subscriptions_of(self.state, session)
        ]
        cards = button("action", "good_card", "Use a good card") + button("action", "bad_card", "Use a card that fails")
        back = button("action", "back", "Back to the shop", main=True)
        parts.append(f'<h2>Payment method</h2><form method="post">{cards}</form>')
        unpaid = [
            invoice
            for invoice in self.state.objects_of("invoice")
            if invoice["customer"] == session["customer"] and invoice["status"] == "open"
        ]
        links = [
            f'<li><a href="/i/{invoice["id"]}">Pay {money(invoice["amount_due"], invoice["currency"])}</a>'
            for invoice in unpaid
        ]
        parts.append(f"<h2>Open invoices</h2><ul>{''.join(links)}</ul>" if links else "")
        return "".join(parts) + f'<form method="post">{back}</form>'

    def _portal_subscription(self, subscription: Json) -> str:
        item = items_of(subscription)[0]
        price, product = item["price"], self.state.objects[item["price"]["product"]]
        verb = "ends" if subscription["cancel_at"] else "renews"
        at = subscription["cancel_at"] or item["current_period_end"]
        text = (
            f"<h2>{html.escape(product['name'])}</h2>"
            f"<p>{money(item_amount(item), price['currency'])} / {price['recurring']['interval']}, "
            f"{html.escape(subscription['status'])}, {verb} {day(at)}</p>"
        )
        resume = button("action", f"resume:{subscription['id']}", "Don’t cancel subscription", main=True)
        cancel = button("action", f"cancel:{subscription['id']}", "Cancel subscription at the end of the period")
        text += f'<form method="post">{resume if subscription["cancel_at"] else cancel}</form>'
        plans = [plan for plan in portal.plans(self.state, subscription) if plan["id"] != price["id"]]
        if plans:
            options = "".join(
                f'<option value="{plan["id"]}">{html.escape(self._plan(plan))}</option>' for plan in plans
            )
            change = button("action", f"plan:{subscription['id']}", "Change to this plan")
            text += f'<form method="post"><label>Plan<select name="price">{options}</select></label>{change}</form>'
        return text

    def _plan(self, price: Json) -> str:
        name = self.state.objects[price["product"]]["name"]
        return f"{name}: {money(price['unit_amount'] or 0, price['currency'])} / {price['recurring']['interval']}"

    # --- an invoice --------------------------------------------------------------------------------------------------

    async def invoice(self, request: Request) -> Response:
        invoice = self._find("invoice", request.path_params["id"])
        if invoice is None or not invoice["number"]:
            return page("Something went wrong", "<p>There is no such invoice.", 404)
        message = ""
        if request.method == "POST" and invoice["status"] in ("open", "uncollectible"):
            choice = (await self._form(request)).get("way")
            if choice == "confirm":
                portal.confirm_open(self.state, invoice)
            else:
                portal.pay_open(self.state, invoice, choice == "good_card")
            message = "Thank you, it is paid." if invoice["status"] == "paid" else DECLINED
            await self._wait_for_webhooks()
        lines = [(line["description"] or "Item", money(line["amount"], line["currency"])) for line in invoice["_lines"]]
        if tax := sum(tax["amount"] for tax in invoice["total_taxes"]):
            lines.append(("Tax", money(tax, invoice["currency"])))
        body = f"<table>{rows(lines)}</table><p class='total'>{money(invoice['amount_due'], invoice['currency'])}</p>"
        if invoice["status"] in ("open", "uncollectible"):
            good = button("way", "good_card", "Pay with a good card", main=True)
            bad = button("way", "bad_card", "Pay with a card that fails")
            asks = (intent_of(self.state, invoice) or {}).get("status") == "requires_action"
            confirm = button("way", "confirm", "Confirm the payment that the bank asks about") if asks else ""
            body += f'<form method="post">{good}{confirm}{bad}</form>'
        return page(f"Invoice {invoice['number']}: {invoice['status']}", notice(message) + body)

    # --- home --------------------------------------------------------------------------------------------------------

    async def home(self, request: Request) -> Response:
        """The newest objects, and buttons that move the clock."""
        if request.method == "POST":
            seconds = (await self._form(request)).get("advance", "0")
            step = min(int(seconds) if str(seconds).isdecimal() else 0, 400 * DAY)
            await self.state.clock.advance(self.state.now + step, self.state.run_action, self.webhooks.wait_until_idle)
            return RedirectResponse("/", 303)
        steps = [(HOUR, "1 hour"), (DAY, "1 day"), (7 * DAY, "1 week"), (31 * DAY, "31 days")]
        buttons = "".join(button("advance", str(seconds), f"+ {label}") for seconds, label in steps)
        tables = "".join(f"<h2>{name}</h2><table>{rows(lines)}</table>" for name, lines in self._tables() if lines)
        target = f"Webhooks go to {self.webhooks.url}." if self.webhooks.url else "There is no webhook address yet."
        body = (
            f"<p>It is <b>{day(self.state.now)}</b> UTC here. Let time pass:</p>"
            f'<form method="post"><div class="row">{buttons}</div></form>'
            f'<p class="note">{html.escape(target)}</p>{tables}'
        )
        return page("Stripe, a stand-in", body, width="56rem")

    def _tables(self) -> list[tuple[str, list[tuple[str, ...]]]]:
        """Title and rows of each table of the home page, newest first."""

        def newest(kind: str) -> list[Json]:
            return list(self.state.objects_of(kind))[::-1][:15]

        return [
            (
                "Subscriptions",
                [
                    (
                        subscription["id"],
                        subscription["customer"],
                        f"{subscription['status']} to {day(period_of(subscription)[1])}",
                    )
                    for subscription in newest("subscription")
                ],
            ),
            (
                "Invoices",
                [
                    (invoice["id"], invoice["status"], money(invoice["total"], invoice["currency"]))
                    for invoice in newest("invoice")
                ],
            ),
            (
                "Charges",
                [
                    (charge["id"], charge["status"], money(charge["amount"], charge["currency"]))
                    for charge in newest("charge")
                ],
            ),
            (
                "Events",
                [
                    (day(event["created"]), event["type"], event["_delivery"]["state"] or "not sent")
                    for event in newest("event")
                ],
            ),
        ]
