"""Draws the charts of docs/performance.md, and fills in its table, from bench/results.json.

A chart has panels of horizontal bars, each panel with its own unit and scale. Colours follow the reader's light or dark
scheme. `make bench` and `make bench-peers` write everything again; a test compares what is committed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from infra.local.postgres import ROOT

Results = Mapping[str, Sequence[Mapping[str, Any]]]

PAGE = ROOT / "docs/performance.md"
FOLDER = ROOT / "docs/performance"
START, END = "<!-- results -->", "<!-- end of results -->"
TABLE_PARTS = ("turn", "breakdown", "coldstart", "peers", "before")

WIDTH, LABELS, VALUES = 760, 260, 90  # pixels
BAR, GAP, TITLE = 18, 6, 44
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328; }
  .title { font-weight: 600; }
  .page { fill: #ffffff; } .ours { fill: #0969da; } .other { fill: #8c959f; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; } .page { fill: #0d1117; } .ours { fill: #4493f8; } .other { fill: #7d8590; }
  }
"""


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar with its label. `is_ours` decides its colour."""

    label: str
    value: float
    is_ours: bool = True


@dataclass(frozen=True, slots=True)
class Panel:
    """Bars of one unit."""

    title: str
    bars: Sequence[Bar]


def files(results: Results) -> dict[Path, str]:
    """The content of every file that the results yield."""
    charts = {"turn.svg": turn(results), "peers.svg": peers(results), "before.svg": before(results)}
    drawn = {FOLDER / name: svg(panels) for name, panels in charts.items() if panels}
    head, _, rest = PAGE.read_text().partition(START)
    _, _, tail = rest.partition(END)
    return {**drawn, PAGE: f"{head}{START}\n\n{table(results)}\n{END}{tail}"}


def write(results: Results) -> None:
    """Writes these files."""
    FOLDER.mkdir(exist_ok=True)
    for path, content in files(results).items():
        path.write_text(content)


def turn(results: Results) -> list[Panel]:
    """Where the milliseconds of a turn go."""
    panels: dict[str, list[Bar]] = {}
    for row in results.get("breakdown", []):
        phase, _, step = row["what"].removesuffix(" in ms, of the whole").partition(": ")
        panels.setdefault(phase, []).append(Bar(step, row["ours"]))
    titles = {"first text": "Until the first text, ms", "end": "After the last text, until the end, ms"}
    return [Panel(titles[phase], bars) for phase, bars in panels.items()]


def peers(results: Results) -> list[Panel]:
    """The chat beside LiteLLM's proxy."""
    panels: dict[str, list[Bar]] = {}
    for row in results.get("peers", []):
        figure, _, path = row["what"].partition(", against ")
        bars = panels.setdefault(figure, [Bar("this chat, metered", row["ours"])])
        bars.append(Bar(path, row["baseline"], is_ours=False))
    return [Panel(title(figure), bars) for figure, bars in panels.items()]


def before(results: Results) -> list[Panel]:
    """The ratios to LiteLLM's messages path before and now: the machine cancels out."""
    now = {
        row["what"].partition(", against ")[0]: row["ratio"]
        for row in results.get("peers", [])
        if row["what"].endswith(" messages")
    }
    panels = []
    for row in results.get("before", []):
        figure = row["what"].removeprefix("before: ").partition(", against ")[0]
        if figure in now:
            bars = [Bar("before", row["ratio"], is_ours=False), Bar("now", now[figure])]
            panels.append(Panel(f"{title(figure)}: times LiteLLM's messages path", bars))
    return panels


def title(figure: str) -> str:
    """A figure's name as a title."""
    figure = figure.replace("... with", "CPU seconds of 1,000 streams with")
    return figure[0].upper() + figure[1:]


def svg(panels: Sequence[Panel]) -> str:
    """The chart."""
    lines, top = [], 12
    for panel in panels:
        lines.append(f'<text class="title" x="12" y="{top + 20}">{escape(panel.title)}</text>')
        top += TITLE - BAR + GAP
        most = max(bar.value for bar in panel.bars) or 1
        for bar in panel.bars:
            length = max(1, round(max(bar.value, 0) / most * (WIDTH - LABELS - VALUES)))
            kind = "ours" if bar.is_ours else "other"
            lines += [
                f'<text x="{LABELS - 10}" y="{top + 14}" text-anchor="end">{escape(bar.label)}</text>',
                f'<rect class="{kind}" x="{LABELS}" y="{top}" width="{length}" height="{BAR}" rx="2"/>',
                f'<text x="{LABELS + length + 8}" y="{top + 14}">{number(bar.value)}</text>',
            ]
            top += BAR + GAP
        top += GAP
    height = top + 6
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}">',
            f"  <style>{STYLE}  </style>",
            f'  <rect class="page" width="{WIDTH}" height="{height}"/>',
            *(f"  {line}" for line in lines),
            "</svg>\n",
        ]
    )


def number(value: float) -> str:
    """A figure with at most two decimals."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def table(results: Results) -> str:
    """The table of the page."""
    lines = ["| what | the chat | compared with | ratio |", "| --- | ---: | ---: | ---: |"]
    lines += [
        f"| {row['what']} | {number(row['ours'])} | {number(row['baseline'])} | {row['ratio']:.2f} |"
        for part in TABLE_PARTS
        for row in results.get(part, [])
    ]
    return "\n".join(lines) + "\n"
