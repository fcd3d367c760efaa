"""What reconcile finds: the kinds with what to do about each, and the printed report."""

from collections import Counter
from dataclasses import asdict, dataclass

SHOWN_PER_KIND = 5  # in the printed report

# The kinds of findings: what each means, and what to do.
KINDS = {
    "I1": "more included queries than the quota: find the cause; nothing is charged for them",
    "I2": "more overage than the limit: find the cause, and credit the user the difference",
    "I3": "the credits of a pack do not add up, or expired too early: compare it with the ledger, and with its payment",
    "I4": "a counter that differs from the ledger: `reconcile --fix` corrects it",
    "I5": "a query without exactly one end: run release-stale-holds; if it stays, check the row",
    "I6": "a request that was charged twice: refund one charge",
    "I7": "an overage item that differs from the ledger: run bill-overages; if it stays, check both rows",
    "price": "overage at another price than the plan's: give the charge back with `user … credit-back`",
    "operator": "an operator's change or a limit without its record: ask who made it, then repeat it with `user …`",
    "overdue": "run retry-events, bill-overages and apply-pending-turns; if it stays, check it, or bill it by hand",
    "item missing": "an invoice item that Stripe does not have: it was deleted there, or its customer was",
    "item doubled": "two invoice items for one row: delete one at Stripe, or credit its invoice",
    "item differs": "an invoice item that is not what we billed: it was changed at Stripe",
    "item misplaced": "an invoice item on another user's customer: delete it at Stripe, or refund its invoice, and "
    "bill it to its user by hand",
    "item unknown": "an invoice item of ours without a row: was the database restored from a backup?",
    "overage payment": "a payment of overage, by card or balance, that is not what we count: run `user … resend "
    "payments`; if it stays, resend an event of its charge from Stripe",
    "pack missing": "a pack that was paid and not granted: run retry-events, or resend its event from Stripe",
    "pack differs": "a pack that differs from what was paid, or expires at another time: compare both",
    "pack unpaid": "a pack without a payment and without an operator's grant: find out who added it, then expire it",
    "pack refund": "a refund or dispute that the pack does not show: resend its event from Stripe",
    "plan differs": "a plan that differs from Stripe: run `user … resend payments`, which reads the customer again; "
    "without a customer, ask who changed it",
    "plan disputed": "a lost dispute of a plan payment: cancel the subscription at Stripe, or resend the dispute's "
    "event",
    "plan doubled": "a user who pays several of our plans each month: cancel all but one at Stripe, and refund them",
    "plan unknown": "a live subscription of a customer without a user: cancel it at Stripe, and refund it",
    "catalogue": "prices or settings at Stripe that differ from ours: run publish-catalog",
    "currency": "money at Stripe in another currency than our prices: refund or cancel it, and bill it again",
    "customer missing": "a customer that is not at Stripe, or not at its user here: run `user … resend payments`; "
    "if it stays, set stripe_customer_id to the one whose metadata has the user_id",
    "customer differs": "a Stripe customer of another user: compare the metadata user_id with stripe_customer_id",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference. `subject` names the row; `user_id` is None where no user is known."""

    kind: str
    user_id: str | None
    subject: str
    expected: str
    found: str

    def as_json(self) -> dict[str, str | None]:
        """The finding with what to do about it."""
        return {**asdict(self), "what_to_do": KINDS[self.kind]}


def report(findings: list[Finding], repaired: int) -> list[str]:
    """A line for each kind, followed by its first findings."""
    lines = [f"{repaired} rows had wrong counters and were repaired."] if repaired else []
    kinds = Counter(one.kind for one in findings)
    for kind, meaning in KINDS.items():
        if kinds[kind]:
            lines.append(f"{kinds[kind]:>6,}  {kind}: {meaning}")
            shown = [one for one in findings if one.kind == kind][:SHOWN_PER_KIND]
            lines += [
                f"        {one.subject} (user {one.user_id or 'none'}): expected {one.expected}, found {one.found}"
                for one in shown
            ]
            if kinds[kind] > len(shown):
                lines.append(f"        and {kinds[kind] - len(shown):,} more")
    return lines if findings else [*lines, "Everything adds up."]
