"""Subscription schedules: changes of a subscription at the end of its periods.

As at Stripe, the portal makes a schedule for a downgrade that waits: the present phase, then a period of the lower
price. The subscription names it until its last phase ends. Phases start with a period and change prices only.
"""

from stripe import params as param_types

from infra.local.stripe.clock import next_period_end
from infra.local.stripe.endpoints import LIST_PARAMS, endpoint
from infra.local.stripe.errors import ApiError, Json, unsupported
from infra.local.stripe.state import State
from infra.local.stripe.subscription_items import billing_interval, items_of, period_of, recurring_price

LIVE = ("not_started", "active")


def _phase(prices: list[tuple[Json, int]], start: int, end: int) -> Json:
    empty = (
        "application_fee_percent billing_cycle_anchor billing_thresholds collection_method default_payment_method "
        "default_tax_rates description invoice_settings on_behalf_of transfer_data trial_end"
    )
    items = [
        {
            "billing_thresholds": None,
            "discounts": [],
            "metadata": {},
            "price": price["id"],
            "quantity": quantity,
            "tax_rates": [],
        }
        for price, quantity in prices
    ]
    return {
        **dict.fromkeys(empty.split()),
        "add_invoice_items": [],
        "currency": prices[0][0]["currency"],
        "discounts": [],
        "end_date": end,
        "items": items,
        "metadata": {},
        "proration_behavior": "none",
        "start_date": start,
    }


@endpoint("POST", "/v1/subscription_schedules", param_types.SubscriptionScheduleCreateParams, "from_subscription")
def create_schedule(state: State, params: Json) -> Json:
    if "from_subscription" not in params:
        raise unsupported("schedules that start a subscription", "customer")
    subscription = state.get("subscription", params["from_subscription"], "from_subscription")
    return make_schedule(state, subscription)


def make_schedule(state: State, subscription: Json) -> Json:
    """A schedule of the present period. Raises ApiError for a subscription that has one."""
    if subscription["schedule"]:
        raise ApiError("This subscription already has a schedule.", param="from_subscription")
    start, end = period_of(subscription)
    schedule = state.add(
        {
            "id": state.new_id("sub_sched"),
            "object": "subscription_schedule",
            "application": None,
            "billing_mode": dict(subscription["billing_mode"]),
            "canceled_at": None,
            "completed_at": None,
            "created": state.now,
            "current_phase": {"end_date": end, "start_date": start},
            "customer": subscription["customer"],
            "customer_account": None,
            "default_settings": {
                "application_fee_percent": None,
                "billing_cycle_anchor": "automatic",
                "billing_thresholds": None,
                "collection_method": "charge_automatically",
                "default_payment_method": None,
                "description": None,
                "invoice_settings": {"account_tax_ids": None, "days_until_due": None, "issuer": {"type": "self"}},
                "on_behalf_of": None,
                "transfer_data": None,
            },
            "end_behavior": "release",
            "livemode": False,
            "metadata": {},
            "phases": [_phase([(item["price"], item["quantity"]) for item in items_of(subscription)], start, end)],
            "released_at": None,
            "released_subscription": None,
            "status": "active",
            "subscription": subscription["id"],
            "test_clock": None,
        }
    )
    subscription["schedule"] = schedule["id"]
    state.emit("subscription_schedule.created", schedule)
    return schedule


@endpoint(
    "POST",
    "/v1/subscription_schedules/{id}",
    param_types.SubscriptionScheduleUpdateParams,
    "end_behavior phases phases.items phases.start_date phases.end_date phases.proration_behavior",
)
def update_schedule(state: State, params: Json, id: str) -> Json:  # noqa: A002 -- named in the path
    schedule = live_schedule(state, id)
    subscription = state.objects[schedule["subscription"]]
    with state.updating(schedule, "subscription_schedule.updated"):
        schedule["end_behavior"] = params.get("end_behavior", schedule["end_behavior"])
        if "phases" in params:
            set_phases(state, schedule, subscription, [_prices(state, phase) for phase in params["phases"]])
    return schedule


def _prices(state: State, phase: Json) -> list[tuple[Json, int]]:
    if phase.get("proration_behavior", "none") != "none":
        raise unsupported("phases with prorations", "phases[proration_behavior]")
    return [(recurring_price(state, entry, "phases[items]"), entry.get("quantity", 1)) for entry in phase["items"]]


def set_phases(state: State, schedule: Json, subscription: Json, phases: list[list[tuple[Json, int]]]) -> None:
    """One period for each phase; the first is the present one."""
    start, end = period_of(subscription)
    made = []
    for prices in phases:
        made.append(_phase(prices, start, end))
        start = end
        end = next_period_end(subscription["billing_cycle_anchor"], *billing_interval(prices[0][0]), start)
    schedule["phases"] = made


def live_schedule(state: State, schedule_id: str) -> Json:
    """The schedule. Raises ApiError if it has ended."""
    schedule = state.get("subscription_schedule", schedule_id)
    if schedule["status"] not in LIVE:
        raise ApiError(f"This schedule is {schedule['status']}.")
    return schedule


@endpoint("POST", "/v1/subscription_schedules/{id}/release", param_types.SubscriptionScheduleReleaseParams)
def release_schedule(state: State, params: Json, id: str) -> Json:  # noqa: A002
    schedule = live_schedule(state, id)
    with state.updating(state.objects[schedule["subscription"]], "customer.subscription.updated"):
        release(state, state.objects[schedule["subscription"]])
    return schedule


def release(state: State, subscription: Json, status: str = "released") -> None:
    """Detach the schedule of a subscription, which goes on as it is. Without one, nothing happens."""
    schedule = state.objects.get(subscription["schedule"] or "")
    if schedule is None:
        return
    at = {"released": "released_at", "completed": "completed_at", "canceled": "canceled_at"}[status]
    schedule |= {"status": status, at: state.now, "current_phase": None, "subscription": None}
    if status == "released":
        schedule["released_subscription"] = subscription["id"]
    subscription["schedule"] = None
    state.emit(f"subscription_schedule.{status}", schedule)


def start_phase(state: State, subscription: Json, at: int) -> bool:
    """At the end of a period: set the prices of the phase that starts. Returns whether the schedule ends the
    subscription instead."""
    schedule = state.objects.get(subscription["schedule"] or "")
    if schedule is None:
        return False
    phase = next((phase for phase in schedule["phases"] if phase["start_date"] == at), None)
    if phase is None:
        ends: bool = schedule["end_behavior"] == "cancel"
        release(state, subscription, "completed")
        return ends
    with state.updating(schedule, "subscription_schedule.updated"):
        schedule["current_phase"] = {"end_date": phase["end_date"], "start_date": at}
    for item, new in zip(items_of(subscription), phase["items"], strict=True):
        item |= {"price": state.objects[new["price"]], "quantity": new["quantity"]}
    return False


@endpoint("GET", "/v1/subscription_schedules/{id}", param_types.SubscriptionScheduleRetrieveParams)
def retrieve_schedule(state: State, params: Json, id: str) -> Json:  # noqa: A002
    return state.get("subscription_schedule", id)


@endpoint("GET", "/v1/subscription_schedules", param_types.SubscriptionScheduleListParams, f"{LIST_PARAMS} customer")
def list_schedules(state: State, params: Json) -> Json:
    found = [
        one for one in state.objects_of("subscription_schedule") if params.get("customer") in (None, one["customer"])
    ]
    return state.list_page(found, params, "/v1/subscription_schedules")
