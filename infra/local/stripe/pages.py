"""What people see: the hosted checkout page, the billing portal, an invoice, and at `/` what exists and the clock.

Plain HTML with buttons, no script. As at Stripe, the browser returns to the shop once `checkout.session.completed` has
been answered, or ten seconds later.
"""

import asyncio
import html
from collections.abc import Sequence
from datetime import UTC, datetime
from string import Template

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from infra.local.stripe import checkout, forms, portal, subscriptions
from infra.local.stripe.clock import DAY, HOUR
from infra.local.stripe.deliver import Deliverer
from infra.local.stripe.errors import Json, Refused
from infra.local.stripe.world import Call, World

PATIENCE = 10  # seconds that a buyer waits for the shop's webhook

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
  .said { padding: .6rem 1rem; border-radius: .4rem; background: #fff3d6; }
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


def rows(lines: Sequence[tuple[str, ...]]) -> str:
    return "".join("<tr>" + "".join(f"<td>{html.escape(cell)}" for cell in line) for line in lines)


def said(message: str) -> str:
    return f'<p class="said" role="alert">{html.escape(message)}</p>' if message else ""


class Pages:
    """The pages of one fake."""

    def __init__(self, world: World, deliverer: Deliverer) -> None:
        self.world, self.deliverer = world, deliverer

    def routes(self) -> list[Route]:
        both = ["GET", "POST"]
        return [
            Route("/", self.home, methods=both),
            Route("/c/pay/{id}", self.checkout, methods=both),
            Route("/p/session/{id}", self.portal, methods=both),
            Route("/i/{id}", self.invoice, methods=both),
        ]

    async def _form(self, request: Request) -> Json:
        """What was submitted; the page acts as nobody's API request."""
        self.world.call = Call()
        self.world.changes += 1
        return forms.parse((await request.body()).decode())

    async def _told(self) -> None:
        """Wait until the shop has heard, as long as a buyer does."""
        try:
            await asyncio.wait_for(self.deliverer.idle(), PATIENCE)
        except TimeoutError:
            return

    def _find(self, kind: str, object_id: str) -> Json | None:
        found = self.world.objects.get(object_id)
        return found if found and found["object"] == kind and "_deleted" not in found else None

    # --- checkout ----------------------------------------------------------------------------------------------------

    async def checkout(self, request: Request) -> Response:
        session = self._find("checkout.session", request.path_params["id"])
        if session is None:
            return page("Something went wrong", "<p>There is no such checkout page.", 404)
        failed = ""
        if request.method == "POST":
            way = (await self._form(request)).get("way")
            if way == "leave":
                if session["cancel_url"]:
                    return RedirectResponse(session["cancel_url"], 303)
                return page("Checkout", "<p>You left without paying.")
            if way not in checkout.WAYS:
                return page("Something went wrong", "<p>There is no such button.", 400)
            if session["status"] == "open":
                try:
                    paid = checkout.pay(self.world, session, way)
                except Refused as refused:
                    return page("Something went wrong", said(str(refused)), 400)
                if paid:
                    await self._told()
                    url = session["success_url"].replace("{CHECKOUT_SESSION_ID}", session["id"])
                    return RedirectResponse(url, 303)
                failed = "Your card was declined."
        if session["status"] != "open":
            over = "You have already paid." if session["status"] == "complete" else "This checkout page has expired."
            return page("Checkout", said(over), 410)
        return page("Checkout", self._offer(session) + said(failed) + self._ways(session), 402 if failed else 200)

    def _offer(self, session: Json) -> str:
        lines = []
        for line in session["_lines"]:
            price = line["price"]
            every = f" / {price['recurring']['interval']}" if price["recurring"] else ""
            lines.append(
                (f"{line['quantity']} × {line['description']}", money(line["amount_total"], line["currency"]) + every)
            )
        details = session["customer_details"] or {}
        whom = f'<p class="note">For {html.escape(details["email"])}</p>' if details.get("email") else ""
        total = money(session["amount_total"], session["currency"])
        return f'<table>{rows(lines)}</table><p class="total">{total} today</p>{whom}'

    def _ways(self, session: Json) -> str:
        free = not session["amount_total"]
        labels = [("good_card", "Subscribe with a good card" if free else "Pay with a good card")]
        if session["_collects"]:
            labels.append(("bad_card", "Pay with a card that fails"))
        if not free:
            labels.append(("later_succeeds", "Pay later (async), succeeds"))
            labels.append(("later_fails", "Pay later (async), fails"))
        labels.append(("leave", "Leave without paying"))
        buttons = "".join(button("way", way, label, way == "good_card") for way, label in labels)
        return f'<form method="post">{buttons}</form>'

    # --- portal ------------------------------------------------------------------------------------------------------

    async def portal(self, request: Request) -> Response:
        session = self._find("billing_portal.session", request.path_params["id"])
        if session is None or not self._find("customer", session["customer"]):
            return page("Something went wrong", "<p>There is no such portal page.", 404)
        told = ""
        if request.method == "POST":
            given = await self._form(request)
            action, _, subscription = str(given.get("action", "")).partition(":")
            if action == "back":
                return RedirectResponse(session["return_url"] or "/", 303)
            try:
                told = portal.act(self.world, session, action, subscription, str(given.get("price", "")))
            except Refused as refused:
                told = str(refused)
            await self._told()
        return page("Your subscription", said(told) + self._portal_body(session))

    def _portal_body(self, session: Json) -> str:
        parts = []
        for one in portal.subscriptions_of(self.world, session):
            item = subscriptions.items_of(one)[0]
            price, product = item["price"], self.world.objects[item["price"]["product"]]
            until = "ends" if one["cancel_at"] else "renews"
            at = one["cancel_at"] or item["current_period_end"]
            parts.append(
                f"<h2>{html.escape(product['name'])}</h2>"
                f"<p>{money(subscriptions.item_amount(item), price['currency'])} / {price['recurring']['interval']}, "
                f"{html.escape(one['status'])}, {until} {day(at)}</p>"
            )
            resume = button("action", f"resume:{one['id']}", "Don’t cancel subscription", main=True)
            cancel = button("action", f"cancel:{one['id']}", "Cancel subscription at the end of the period")
            parts.append(f'<form method="post">{resume if one["cancel_at"] else cancel}</form>')
            others = [plan for plan in portal.plans(self.world, one) if plan["id"] != price["id"]]
            options = "".join(
                f'<option value="{plan["id"]}">{html.escape(self._plan(plan))}</option>' for plan in others
            )
            if others:
                change = button("action", f"plan:{one['id']}", "Change to this plan")
                parts.append(
                    f'<form method="post"><label>Plan<select name="price">{options}</select></label>{change}</form>'
                )
        cards = button("action", "good_card", "Use a good card") + button("action", "bad_card", "Use a card that fails")
        back = button("action", "back", "Back to the shop", main=True)
        parts.append(f'<h2>Payment method</h2><form method="post">{cards}</form>')
        owing = [
            one
            for one in self.world.of("invoice")
            if one["customer"] == session["customer"] and one["status"] == "open"
        ]
        links = [f'<li><a href="/i/{one["id"]}">Pay {money(one["amount_due"], one["currency"])}</a>' for one in owing]
        parts.append(f"<h2>Open invoices</h2><ul>{''.join(links)}</ul>" if links else "")
        return "".join(parts) + f'<form method="post">{back}</form>'

    def _plan(self, price: Json) -> str:
        name = self.world.objects[price["product"]]["name"]
        return f"{name}: {money(price['unit_amount'] or 0, price['currency'])} / {price['recurring']['interval']}"

    # --- an invoice --------------------------------------------------------------------------------------------------

    async def invoice(self, request: Request) -> Response:
        invoice = self._find("invoice", request.path_params["id"])
        if invoice is None or not invoice["number"]:
            return page("Something went wrong", "<p>There is no such invoice.", 404)
        told = ""
        if request.method == "POST" and invoice["status"] == "open":
            way = (await self._form(request)).get("way")
            portal.pay_open(self.world, invoice, way == "good_card")
            told = "Thank you, it is paid." if invoice["status"] == "paid" else "Your card was declined."
            await self._told()
        lines = [(line["description"] or "Item", money(line["amount"], line["currency"])) for line in invoice["_lines"]]
        body = f"<table>{rows(lines)}</table><p class='total'>{money(invoice['amount_due'], invoice['currency'])}</p>"
        if invoice["status"] == "open":
            ways = button("way", "good_card", "Pay with a good card", main=True) + button(
                "way", "bad_card", "Pay with a card that fails"
            )
            body += f'<form method="post">{ways}</form>'
        return page(f"Invoice {invoice['number']}: {invoice['status']}", said(told) + body)

    # --- home --------------------------------------------------------------------------------------------------------

    async def home(self, request: Request) -> Response:
        """What exists, newest first, and buttons that let time pass."""
        if request.method == "POST":
            given = (await self._form(request)).get("advance", "0")
            seconds = int(given) if str(given).isdecimal() else 0
            await self.world.clock.move(self.world.now + min(seconds, 400 * DAY), self.world.act, self.deliverer.idle)
            return RedirectResponse("/", 303)
        steps = [(HOUR, "1 hour"), (DAY, "1 day"), (7 * DAY, "1 week"), (31 * DAY, "31 days")]
        buttons = "".join(button("advance", str(seconds), f"+ {label}") for seconds, label in steps)
        world = self.world
        newest = {kind: list(world.of(kind))[::-1][:15] for kind in ("subscription", "invoice", "charge", "event")}
        tables = [
            (
                "Subscriptions",
                [
                    (one["id"], one["customer"], f"{one['status']} to {day(subscriptions.period_of(one)[1])}")
                    for one in newest["subscription"]
                ],
            ),
            (
                "Invoices",
                [(one["id"], one["status"], money(one["total"], one["currency"])) for one in newest["invoice"]],
            ),
            (
                "Charges",
                [(one["id"], one["status"], money(one["amount"], one["currency"])) for one in newest["charge"]],
            ),
            (
                "Events",
                [
                    (day(one["created"]), one["type"], one["_delivery"]["state"] or "not sent")
                    for one in newest["event"]
                ],
            ),
        ]
        shown = "".join(f"<h2>{name}</h2><table>{rows(lines)}</table>" for name, lines in tables if lines)
        where = f"Webhooks go to {self.deliverer.url}." if self.deliverer.url else "There is no webhook address yet."
        body = (
            f"<p>It is <b>{day(world.now)}</b> UTC here. Let time pass:</p>"
            f'<form method="post"><div class="row">{buttons}</div></form>'
            f'<p class="note">{html.escape(where)}</p>{shown}'
        )
        return page("Stripe, a stand-in", body, width="56rem")
