"""The charts and the table of docs/performance.md are what bench/results.json yields."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import charts
from bench.charts import Bar, Panel

FILES = charts.files(json.loads((Path(charts.__file__).parent / "results.json").read_text()))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_committed_file_is_what_the_results_yield(path: Path) -> None:
    assert path.read_text() == FILES[path]


def test_every_committed_chart_is_drawn_from_the_results() -> None:
    assert set(charts.FOLDER.glob("*")) == {path for path in FILES if path.parent == charts.FOLDER}


def test_bars_are_as_long_as_their_values() -> None:
    chart = charts.svg([Panel("Time, ms", [Bar("a & b", 10), Bar("c", 5), Bar("d", 0)])])
    drawn = ElementTree.fromstring(chart)  # noqa: S314 -- drawn here
    widths = [int(bar.attrib["width"]) for bar in drawn.findall("{*}rect") if bar.attrib["class"] == "ours"]
    assert widths[0] == 2 * widths[1] > widths[2] == 1
    assert [text.text for text in drawn.findall("{*}text")][:3] == ["Time, ms", "a & b", "10.0"]
