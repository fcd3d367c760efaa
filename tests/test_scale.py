"""docs/scale.md and its chart are what bench/scale.py computes."""

import random
from pathlib import Path

import pytest

from bench import scale

FILES = scale.files()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_committed_file_is_what_the_arithmetic_yields(path: Path) -> None:
    assert path.read_text() == FILES[path]


def test_arrivals_follow_the_hours_and_the_news() -> None:
    users, rate = 20_000, 20_000 * scale.ACTIVE * scale.QUESTIONS
    times = list(scale.arrivals(random.Random(1), users, news=True))  # noqa: S311
    assert times == sorted(times)
    by_hour = [sum(1 for at in times if at // scale.HOUR_S == hour) for hour in range(24)]
    expected = [rate * share / sum(scale.HOURS) for share in scale.HOURS]
    expected[20] *= 0.5 + 0.5 * scale.NEWS_FACTOR
    for found, mean in zip(by_hour, expected, strict=True):
        assert abs(found - mean) < 5 * mean**0.5 + 1


def test_answers_at_once_obey_littles_law() -> None:
    """The mean of L over the busiest hour is near λW, and the most is above it."""
    day = scale.simulate(scale.SCENARIOS[1], scale.costs(), users=100_000)
    little = scale.peak(100_000) * scale.ANSWER_S
    assert little < day.at_once[20] < 4 * little


def test_offered_load_agrees_with_erlangs_table() -> None:
    """Traffic at 1% blocking, as printed in tables of Erlang B."""
    assert [round(scale.offered(lines, 0.01), 2) for lines in (1, 10, 20, 100)] == [0.01, 4.46, 12.03, 84.06]


def test_the_free_budget_refuses_only_free_users() -> None:
    scenario = scale.Scenario("free", processes=1_000, budget_usd=1e9, free_budget_usd=0)
    day = scale.simulate(scenario, scale.costs(), users=20_000)
    assert set(day.reasons) == {"free budget"}
    assert day.reasons["free budget"] / sum(day.questions) == pytest.approx(scale.FREE, abs=0.03)


def test_a_full_pool_makes_the_next_one_wait() -> None:
    pool = scale.Pool(2)
    for _ in range(2):
        pool.use(10.0, 0.5)
    assert (pool.wait_s(10.0), pool.wait_s(10.4), pool.wait_s(11.0)) == (0.5, pytest.approx(0.1), 0.0)


def test_a_bucket_gives_a_minutes_amount_and_refills() -> None:
    bucket = scale.Bucket(1, (scale.REQUESTS / 2, 1, 1))
    assert [bucket.take(0.0) for _ in range(3)] == [True, True, False]
    assert (bucket.take(20.0), bucket.take(30.0), bucket.take(31.0)) == (False, True, False)


def test_the_default_budget_is_that_of_the_schema() -> None:
    (line,) = [
        line
        for line in (scale.ROOT / "sql/schemas/05_settings.sql").read_text().splitlines()
        if line.startswith("insert into public.settings")
    ]
    assert line.endswith(f"values ({scale.FREE_BUDGET_USD}, {scale.BUDGET_USD})")
    assert f"chatConcurrency: {scale.SCENARIOS[0].processes} " in (scale.ROOT / "serverless.yml").read_text()
