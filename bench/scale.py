"""How the service grows: the arithmetic at three sizes, and a day of one million users as a discrete-event simulation.

`python -m bench.scale` writes the tables and the chart of docs/scale.md; a test compares them. The costs of a query are
those of bench/results.json. What is not measured is a constant here, with its reason.

The simulation has one event for each question and one for the end of each answer. A question needs a free process, a
connection of PostgREST's pool, room in a provider's rate limits and in the day's budget; it is refused by the first one
that it lacks. The seed is fixed, so every run yields the same figures.
"""

import heapq
import json
import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from bench.charts import Bar, Panel, svg
from functions.chat import limits
from functions.chat.providers import prices
from infra.deploy import costs as costs_on_aws
from infra.local.postgres import ROOT
from infra.pricing import TYPICAL

PAGE = ROOT / "docs/scale.md"
CHART = ROOT / "docs/scale/day.svg"
RESULTS = Path(__file__).with_name("results.json")
SIZES = (1_000, 1_000_000, 100_000_000)
DAY_S, HOUR_S, HALF_HOUR_S = 86_400, 3_600, 1_800
SEED = 20_260_704

# What is assumed. Replace it with what your own users do: the formulas stay.
ACTIVE = 0.1  # of the users, on a day
QUESTIONS = 3  # of an active user, on a day
ANSWER_S = float(costs_on_aws.CHAT_S)  # mean
ANSWER_SIGMA = 0.6  # of its lognormal distribution: one answer in a hundred takes half a minute
DEAR = 0.25  # of the questions go to a dear model, which free users do not have
FREE = 0.4  # of the questions are asked by free users
CHEAP_MODEL, DEAR_MODEL = "claude-haiku-5-5", "claude-sonnet-5-5"
# The share of a day's questions in each hour, in per mille: few at night, most in the evening.
HOURS = (16, 10, 7, 6, 6, 9, 17, 28, 40, 48, 52, 54, 56, 55, 53, 52, 54, 58, 66, 78, 92, 76, 45, 22)
NEWS_S = 20 * HOUR_S  # the half hour after a vote that everybody asks about
NEWS_FACTOR = 5
# A provider's limits of an account in a minute, as large accounts have them. Yours are on its page.
REQUESTS, INPUT_TOKENS, OUTPUT_TOKENS = 4_000, 2_000_000, 400_000
PROVIDERS = 2  # a query that one provider refuses goes to the other
LAMBDA_USD_A_GB_S = float(costs_on_aws.GB_SECOND)
LAMBDA_GB = float(costs_on_aws.CHAT_GB)
FREE_BUDGET_USD, BUDGET_USD = 20, 200  # a day, of a new database
REFUSED = 0.01  # of the questions of the busiest hour: processes count as full then
HEADROOM = 2.0  # times the mean at the peak, for bursts

ROWS = 100_000  # to measure the size of a row


@dataclass(frozen=True, slots=True)
class Costs:
    """What a query costs: the time of a connection and of processors in ms, the bytes of its row in the ledger, tokens
    and US dollars. `chats_a_second`: what one process of the chat ends."""

    admission_ms: float
    settlement_ms: float
    chat_ms: float
    chats_a_second: float
    database_ms: float
    row_bytes: float
    requests: int
    input_tokens: int
    output_tokens: int
    cheap_usd: float
    dear_usd: float

    @property
    def mean_usd(self) -> float:
        """At the providers, over the mix of models."""
        return (1 - DEAR) * self.cheap_usd + DEAR * self.dear_usd


def costs() -> Costs:
    """From the measured results, and from the prices and tokens of docs/pricing.md."""
    measured = {row["what"]: row for part in json.loads(RESULTS.read_text()).values() for row in part}

    def ours(*names: str) -> float:
        return sum(float(measured[name]["ours"]) for name in names)

    chat_ms = ours("CPU seconds of 1,000 streams, against a relay")
    steps = [f"{{}}: {layer} in ms, of the whole" for layer in ("PostgREST", "SQL")]
    return Costs(
        admission_ms=ours(*(step.format("first text: admission") for step in steps)),
        settlement_ms=ours(*(step.format("end: settlement") for step in steps)),
        chat_ms=chat_ms,
        chats_a_second=ours("streams per second, 64 open, against a relay"),
        database_ms=ours("... with PostgREST and Postgres") - chat_ms,
        row_bytes=ours("bytes of a row of usage_logs with its indexes, against without"),
        requests=len(TYPICAL),
        input_tokens=sum(step.tokens_input - step.cache_read_tokens for step in TYPICAL),
        output_tokens=sum(step.tokens_output for step in TYPICAL),
        cheap_usd=_usd(CHEAP_MODEL),
        dear_usd=_usd(DEAR_MODEL),
    )


def _usd(model: str) -> float:
    return float(sum(prices.cost_usd("anthropic", model, step) or 0 for step in TYPICAL))


# The arithmetic


def peak(users: int) -> float:
    """Questions a second in the busiest hour."""
    return users * ACTIVE * QUESTIONS * max(HOURS) / sum(HOURS) / HOUR_S


def reckon(cost: Costs) -> list[tuple[str, str, list[float]]]:
    """The rows of the first table: what, its formula, and its value at each size."""
    lambda_usd = 1_000 * ANSWER_S * LAMBDA_GB * LAMBDA_USD_A_GB_S
    a_day = [users * ACTIVE * QUESTIONS for users in SIZES]
    peaks = [peak(users) for users in SIZES]
    minutes = [60 * rate for rate in peaks]
    return [
        ("questions a day", f"users × {ACTIVE:.0%} active × {QUESTIONS}", a_day),
        ("questions a second, λ, busiest hour", "the share of that hour in a day", peaks),
        ("answers at once, L", f"L = λW (Little), W = {ANSWER_S:g} s", [rate * ANSWER_S for rate in peaks]),
        (
            "`chatConcurrency`",
            f"L × {HEADROOM:g}, at least 20",
            [max(20, rate * ANSWER_S * HEADROOM) for rate in peaks],
        ),
        (
            "PostgREST connections in use",
            f"λ × ({cost.admission_ms:.2f} + {cost.settlement_ms:.2f} ms)",
            [rate * (cost.admission_ms + cost.settlement_ms) / 1_000 for rate in peaks],
        ),
        (
            "processors of PostgREST and Postgres",
            f"λ × {cost.database_ms:.2f} ms",
            [rate * cost.database_ms / 1_000 for rate in peaks],
        ),
        (
            "processors of the chat as a server",
            f"λ × {cost.chat_ms:.2f} ms",
            [rate * cost.chat_ms / 1_000 for rate in peaks],
        ),
        ("rows of `usage_logs` a year", "questions × 365", [365 * day for day in a_day]),
        ("their GB", f"rows × {cost.row_bytes:.0f} bytes", [365 * day * cost.row_bytes / 1e9 for day in a_day]),
        ("provider: requests a minute", f"60λ × {cost.requests}", [rate * cost.requests for rate in minutes]),
        (
            "provider: input tokens a minute, not cached",
            f"60λ × {cost.input_tokens:,}",
            [rate * cost.input_tokens for rate in minutes],
        ),
        (
            "provider: output tokens a minute",
            f"60λ × {cost.output_tokens:,}",
            [rate * cost.output_tokens for rate in minutes],
        ),
        (
            "models, USD for 1,000 chats",
            f"{1 - DEAR:.0%} × {1_000 * cost.cheap_usd:.2f} + {DEAR:.0%} × {1_000 * cost.dear_usd:.2f}",
            [1_000 * cost.mean_usd] * len(SIZES),
        ),
        ("Lambda, USD for 1,000 chats", f"1,000 × W × {LAMBDA_GB:g} GB × price", [lambda_usd] * len(SIZES)),
        ("models, USD a day", "questions × the mean", [day * cost.mean_usd for day in a_day]),
    ]


def offered(processes: int, refused: float) -> float:
    """The mean of answers at once at which so many processes refuse this share of the questions (Erlang B)."""
    low, high = 0.0, float(processes)
    for _ in range(50):
        load, blocked = (low + high) / 2, 1.0
        for number_of in range(1, processes + 1):
            blocked = load * blocked / (number_of + load * blocked)
        low, high = (load, high) if blocked < refused else (low, load)
    return low


def ceilings(cost: Costs) -> list[tuple[str, str, float]]:
    """The rows of the second table, lowest first: a limit, its formula, and the users at which it is reached."""
    questions_a_day = ACTIVE * QUESTIONS
    at_peak = peak(1)  # questions a second, of one user
    connection_ms = cost.admission_ms + cost.settlement_ms
    rows = [
        (
            f"the day's budget of free users, ${FREE_BUDGET_USD}",
            f"{FREE_BUDGET_USD} / ({FREE:.0%} of the questions a day × the cheap model)",
            FREE_BUDGET_USD / cost.cheap_usd / questions_a_day / FREE,
        ),
        (
            f"the day's budget of all queries, ${BUDGET_USD}",
            f"{BUDGET_USD} / (questions a day × the mean)",
            BUDGET_USD / cost.mean_usd / questions_a_day,
        ),
        *(
            (what, f"L = {most:,.3g}: {processes:,} refuse 1% (Erlang B)", most / ANSWER_S / at_peak)
            for what, processes in (
                ("a new AWS account's 10 processes", 10),
                ("`chatConcurrency` 20", 20),
                ("an AWS account's default of 1,000 processes", 1_000),
            )
            for most in [offered(processes, REFUSED)]
        ),
        (
            "one provider's input tokens a minute",
            f"60λ × {cost.input_tokens:,} = {INPUT_TOKENS:,}",
            INPUT_TOKENS / cost.input_tokens / 60 / at_peak,
        ),
        (
            "100 million rows of `usage_logs` a year",
            "questions × 365 = 100,000,000",
            100_000_000 / 365 / questions_a_day,
        ),
        (
            "one process of the chat as a server",
            f"λ = {cost.chats_a_second:.0f}, as measured",
            cost.chats_a_second / at_peak,
        ),
        (
            "two processors of PostgREST and Postgres",
            f"λ × {cost.database_ms:.2f} ms = 2",
            2_000 / cost.database_ms / at_peak,
        ),
        ("20 connections of PostgREST", f"λ × {connection_ms:.2f} ms = 20", 20_000 / connection_ms / at_peak),
    ]
    return sorted(rows, key=lambda row: row[2])


# The simulation


@dataclass(frozen=True, slots=True)
class Scenario:
    """What there is of everything. `provider`: times the rate limits of above."""

    name: str
    processes: int
    budget_usd: float
    free_budget_usd: float
    connections: int = 20
    provider: float = 1
    news: bool = False


SCENARIOS = (
    Scenario("as deployed", processes=20, budget_usd=BUDGET_USD, free_budget_usd=FREE_BUDGET_USD),
    Scenario("sized", processes=150, budget_usd=2_500, free_budget_usd=250),
    Scenario("sized, news", processes=150, budget_usd=2_500, free_budget_usd=250, news=True),
    Scenario("more, news", processes=700, budget_usd=5_000, free_budget_usd=500, provider=4, news=True),
)
REFUSALS = ("process", "connection", "free budget", "budget", "provider")


@dataclass(slots=True)
class Day:
    """What happened. By hour: questions, refusals, and the most answers at once."""

    questions: list[int] = field(default_factory=lambda: [0] * 24)
    refused: list[int] = field(default_factory=lambda: [0] * 24)
    at_once: list[int] = field(default_factory=lambda: [0] * 24)
    reasons: Counter[str] = field(default_factory=Counter)
    failovers: int = 0
    longest_wait_ms: float = 0.0
    spent_usd: float = 0.0
    spent_on_free_usd: float = 0.0


class Bucket:
    """A provider's limits of requests and tokens: a minute's amount at most, refilled all the time."""

    def __init__(self, factor: float, need: Sequence[float]) -> None:
        sizes = [factor * size for size in (REQUESTS, INPUT_TOKENS, OUTPUT_TOKENS)]
        self._most = min(size / one for size, one in zip(sizes, need, strict=True))  # in queries
        self._left, self._at = self._most, 0.0

    def take(self, now: float) -> bool:
        """Takes one query's amount, if it is there."""
        self._left = min(self._most, self._left + (now - self._at) * self._most / 60)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Pool:
    """Connections, first come, first served."""

    def __init__(self, connections: int) -> None:
        self._free_at = [0.0] * connections

    def wait_s(self, now: float) -> float:
        """How long the next one would wait."""
        return max(0.0, self._free_at[0] - now)

    def use(self, now: float, seconds: float) -> None:
        """Uses the connection that is free first."""
        heapq.heapreplace(self._free_at, max(now, self._free_at[0]) + seconds)


def arrivals(chance: random.Random, users: int, *, news: bool) -> Iterator[float]:
    """The times of a day's questions: a Poisson process with the rate of each half hour."""
    for half_hour in range(DAY_S // HALF_HOUR_S):
        start = float(half_hour * HALF_HOUR_S)
        rate = users * ACTIVE * QUESTIONS * HOURS[half_hour // 2] / sum(HOURS) / HOUR_S
        if news and start == NEWS_S:
            rate *= NEWS_FACTOR
        now = start + chance.expovariate(rate)
        while now < start + HALF_HOUR_S:
            yield now
            now += chance.expovariate(rate)


def simulate(scenario: Scenario, cost: Costs, users: int = SIZES[1]) -> Day:
    """One day."""
    chance = random.Random(SEED)  # noqa: S311 -- the same day every time
    day, pool = Day(), Pool(scenario.connections)
    providers = [
        Bucket(scenario.provider, (cost.requests, cost.input_tokens, cost.output_tokens)) for _ in range(PROVIDERS)
    ]
    median_s = ANSWER_S / math.exp(ANSWER_SIGMA**2 / 2)
    ends: list[float] = []

    def end_until(now: float) -> None:
        while ends and ends[0] <= now:
            pool.use(heapq.heappop(ends), cost.settlement_ms / 1_000)

    def refusal(now: float, *, is_free: bool) -> str | None:
        if len(ends) >= scenario.processes:
            return "process"
        wait_s = pool.wait_s(now)
        day.longest_wait_ms = max(day.longest_wait_ms, 1_000 * wait_s)
        if wait_s > limits.ADMIT_S:
            return "connection"
        pool.use(now, cost.admission_ms / 1_000)
        if is_free and day.spent_on_free_usd >= scenario.free_budget_usd:
            return "free budget"
        if day.spent_usd >= scenario.budget_usd:
            return "budget"
        for number, provider in enumerate(providers):
            if provider.take(now):
                day.failovers += number > 0
                return None
        return "provider"

    for now in arrivals(chance, users, news=scenario.news):
        hour = int(now // HOUR_S)
        end_until(now)
        day.questions[hour] += 1
        kind = chance.random()
        is_free, is_dear = kind < FREE, kind >= 1 - DEAR
        if reason := refusal(now, is_free=is_free):
            day.refused[hour] += 1
            day.reasons[reason] += 1
            continue
        seconds = min(limits.TURN_S, median_s * math.exp(chance.gauss(0, ANSWER_SIGMA)))
        heapq.heappush(ends, now + seconds)
        usd = cost.dear_usd if is_dear else cost.cheap_usd
        day.spent_usd += usd
        day.spent_on_free_usd += usd * is_free
        day.at_once[hour] = max(day.at_once[hour], len(ends))
    return day


# The page


def number(value: float) -> str:
    """With three digits or more."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(cost: Costs) -> str:
    """The arithmetic."""
    sizes = " | ".join(f"{users:,}" for users in SIZES)
    lines = [f"| | reckoned as | {sizes} |", "| --- | --- | ---: | ---: | ---: |"]
    lines += [
        f"| {what} | {formula} | {' | '.join(number(value) for value in values)} |"
        for what, formula, values in reckon(cost)
    ]
    return "\n".join(lines)


def limit_table(cost: Costs) -> str:
    """The limits."""
    lines = ["| reached first | when | users |", "| --- | --- | ---: |"]
    lines += [f"| {what} | {formula} | {_rounded(users):,} |" for what, formula, users in ceilings(cost)]
    return "\n".join(lines)


def _rounded(value: float) -> int:
    """To two digits: the rest would look exact."""
    return int(float(f"{value:.1e}"))


def simulation(days: Mapping[str, Day]) -> str:
    """The days, one in each column."""
    rows = {
        "questions": [f"{sum(day.questions):,}" for day in days.values()],
        "answered": [f"{1 - sum(day.refused) / sum(day.questions):.1%}" for day in days.values()],
        "most answers at once": [f"{max(day.at_once):,}" for day in days.values()],
        **{f"refused: no {reason}": [f"{day.reasons[reason]:,}" for day in days.values()] for reason in REFUSALS},
        "answered by the second provider": [f"{day.failovers:,}" for day in days.values()],
        "longest wait for a connection, ms": [f"{day.longest_wait_ms:.1f}" for day in days.values()],
        "models, USD": [f"{day.spent_usd:,.0f}" for day in days.values()],
    }
    lines = [f"| | {' | '.join(days)} |", "| --- |" + " ---: |" * len(days)]
    return "\n".join(lines + [f"| {what} | {' | '.join(figures)} |" for what, figures in rows.items()])


def chart(days: Mapping[str, Day]) -> str:
    """Two panels: how many answers run at once, and when questions are refused."""
    _, sized, news, _ = days.values()
    return svg(
        [
            Panel(
                "Most answers at once in each hour, sized by the table",
                [Bar(f"{hour:02}:00", value, is_ours=True) for hour, value in enumerate(sized.at_once)],
            ),
            Panel(
                "Questions refused in each hour from 18:00 on, %, with news in the evening",
                [
                    Bar(f"{hour:02}:00", 100 * news.refused[hour] / news.questions[hour], is_ours=False)
                    for hour in range(18, 24)
                ],
            ),
        ]
    )


def files() -> dict[Path, str]:
    """The content of the page and of its chart."""
    cost = costs()
    days = {scenario.name: simulate(scenario, cost) for scenario in SCENARIOS}
    page = PAGE.read_text()
    for name, content in (("arithmetic", table(cost)), ("limits", limit_table(cost)), ("simulation", simulation(days))):
        head, _, rest = page.partition(f"<!-- {name} -->")
        _, _, tail = rest.partition(f"<!-- end of {name} -->")
        page = f"{head}<!-- {name} -->\n\n{content}\n\n<!-- end of {name} -->{tail}"
    return {PAGE: page, CHART: chart(days)}


def run() -> list[dict[str, Any]]:
    """Measures the size of a row of the ledger, in a new database."""
    from bench.growth import fill
    from bench.metering import cluster, prepare

    with cluster() as postgres:
        prepare(postgres)
        with psycopg.connect(postgres.url("supabase_admin"), autocommit=True) as db:
            fill(db, 1, ROWS)
            db.execute("set session_replication_role = replica")  # the ledger refuses updates
            ids = ("request_id", "chat_key", "question_digest", "conversation_id", "message_id")
            db.execute(f"update public.usage_logs set {', '.join(f'{name} = gen_random_uuid()' for name in ids)}")
            db.execute("vacuum (full, analyze) public.usage_logs")
            sizes = db.execute(
                "select pg_total_relation_size('public.usage_logs'), pg_relation_size('public.usage_logs')"
            ).fetchone()
    assert sizes is not None
    whole, alone = (size / ROWS for size in sizes)
    return [
        {
            "what": "bytes of a row of usage_logs with its indexes, against without",
            "ratio": whole / alone,
            "ours": whole,
            "baseline": alone,
        }
    ]


if __name__ == "__main__":
    for path, content in files().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
