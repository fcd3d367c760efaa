"""How results are cut to the model's limit, and the text helpers behind them."""

import pytest

from functions.chat.sources.text import html_to_text, localized, shorten
from functions.chat.tools import Source
from functions.chat.tools.results import Item, fit, list_result
from functions.chat.tools.tool import ToolData
from tests.functions.tools.kit import LANGUAGES


def test_items_that_do_not_fit_are_counted() -> None:
    items = [{"text": "é" * 20}] * 10
    limit = 3 * (len('{"text":""}') + 40 + 1)
    assert fit(items, limit) == {"items": items[:3], "left_out": 7}
    assert fit(items, limit - 1) == {"items": items[:2], "left_out": 8}
    assert fit([], 0) == {"items": [], "left_out": 0}
    assert fit(["x" * 100, "y"], 50) == {"items": [], "left_out": 2}


def test_sources_of_omitted_items_are_omitted() -> None:
    items = [Item({"n": n, "text": "x" * 3_000}, Source(f"https://x.test/{n}", str(n))) for n in range(5)]
    about = Source("https://x.test/", "about")
    assert list_result({"of": "x"}, [about], items, 4) == ToolData(
        {"of": "x", "items": [items[0].data, items[1].data], "left_out": 3}, [about, items[0].source, items[1].source]
    )


@pytest.mark.parametrize(
    ("text", "limit", "short"),
    [
        ("one two", 7, "one two"),
        ("one two three", 12, "one two…"),
        ("one two three", 10, "one two…"),
        ("one two three", 9, "one…"),
        ("unbreakable", 7, "unbr…"),
        ("ᐅᖃᐅᓯᖅ ᐅᖃᐅᓯᖅ", 30, "ᐅᖃᐅᓯᖅ…"),
        ("ᐅᖃᐅᓯᖅ", 10, "ᐅᖃ…"),
        (None, 5, None),
    ],
)
def test_shorten_cuts_between_words(text: str | None, limit: int, short: str | None) -> None:
    cut = shorten(text, limit)
    assert cut == short
    assert len((cut or "").encode()) <= limit


def test_html_to_text_strips_tags_and_entities() -> None:
    html = '<p data-x="1">A &amp; <em>b</em>\n c</p>\n<p>1 &lt; 2<br>x</p>'
    assert html_to_text(html) == "A & b c\n1 < 2\nx"
    assert html_to_text(None) == ""
    assert html_to_text("<" * 1_000_000) == "<" * 1_000_000  # in linear time


def test_localized_falls_back_to_the_other_language() -> None:
    assert [localized({"en": "a", "fr": "b"}, language) for language in LANGUAGES] == ["a", "b"]
    assert [localized({"en": "a"}, language) for language in LANGUAGES] == ["a", "a"]
    assert [localized({"en": "", "fr": "b"}, language) for language in LANGUAGES] == ["b", "b"]
    assert [localized(value, "en") for value in ("a", None, {}, 5)] == ["a", None, None, None]
