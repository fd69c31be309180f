"""Pictures of the dashboards where there is no Grafana: `python deploy/grafana/picture.py` makes a PNG of each.

What belongs here: asking a Prometheus what `dashboards/*.json` ask, drawing the answers in the dashboard's own grid.
What does not: questions (`boards`), nor all that Grafana can do; a panel is drawn by what `boards` sets.
"""

import argparse
import json
import re
import sys
import textwrap
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator
from numpy.typing import NDArray

FOLDER = Path(__file__).parent / "dashboards"
IMAGES = Path(__file__).parents[2] / "docs" / "images"
POINTS = 240
"""Moments that each question is asked for."""

DAY = 86_400
TICKS = [*(60 * minutes for minutes in (1, 2, 5, 10, 15, 30, 60, 120, 360, 720)), DAY, 7 * DAY]
"""Seconds between two moments that are named."""

COLUMN, ROW, EDGE, HEAD = 0.56, 0.36, 0.06, 0.5
"""Inches: a column and a row of Grafana's grid, the space around a panel, the dashboard's own title."""
PAGE, PANEL, LINE, INK, FAINT = "#eef0f4", "#ffffff", "#d9dde4", "#1f2430", "#6b7280"
COLOURS = ("#3274d9", "#e8833a", "#3d9a50", "#8f56c9", "#d6455d", "#1a9e9e", "#b58900", "#7a7f87", "#c45a9b", "#5b6ee1")
BELOW, ABOVE = COLOURS[0], "#d3222a"
"""Of a number: below its limit, above it."""


@dataclass(frozen=True)
class Series:
    """What a question was answered with, for one set of labels; NaN where there is no number."""

    name: str
    values: NDArray[np.float64]

    @property
    def last(self) -> float:
        """The newest value."""
        return float(self.values[~np.isnan(self.values)][-1])


class Asker:
    """Asks a Prometheus about a span of time."""

    def __init__(self, url: str, begin: float, end: float, transport: httpx.BaseTransport | None = None) -> None:
        self.begin, self.end = begin, end
        self.times = np.linspace(begin, end, POINTS)
        self._http = httpx.Client(base_url=url, timeout=30, trust_env=False, transport=transport)

    def __call__(self, target: dict[str, Any]) -> list[Series]:
        """The series of one target of a panel. Raises httpx.HTTPError."""
        step = (self.end - self.begin) / (POINTS - 1)
        asked = {"query": target["expr"], "start": self.begin, "end": self.end, "step": step}
        answer = self._http.get("/api/v1/query_range", params=asked).raise_for_status().json()
        made = []
        for series in answer["data"]["result"]:
            values = np.full(POINTS, np.nan)
            for moment, value in series["values"]:
                # what was divided by nothing has no place in a picture
                values[round((moment - self.begin) / step)] = float(value) if np.isfinite(float(value)) else np.nan
            if not np.isnan(values).all():
                made.append(Series(_legend(target["legendFormat"], series["metric"]), values))
        return made


def _legend(text: str, labels: dict[str, str]) -> str:
    return re.sub(r"{{\s*(\w+)\s*}}", lambda found: labels.get(found[1], ""), text)


SCALES: dict[str, tuple[tuple[float, str], ...]] = {
    "percentunit": ((0.01, "%"),),
    "s": ((DAY, " d"), (3_600, " h"), (60, " min"), (1, " s"), (1e-3, " ms"), (1e-6, " µs")),
    "bytes": ((2**30, " GiB"), (2**20, " MiB"), (2**10, " KiB"), (1, " B")),
    "reqps": ((1, " req/s"),),
    "ops": ((1, "/s"),),
    "none": ((1, ""),),
}
"""Of each of Grafana's units that `boards` uses: sizes and their names, the largest first."""


def scale_of(unit: str, value: float) -> tuple[float, str]:
    """The size in which people would say a number."""
    return next((step for step in SCALES[unit] if abs(value) >= step[0]), SCALES[unit][-1])


def said(unit: str, value: float) -> str:
    """A number as people read it."""
    size, name = scale_of(unit, value)
    return f"{_short(value / size)}{name}" if value else "0"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def draw(board: dict[str, Any], ask: Asker) -> tuple[Figure, list[str]]:
    """A dashboard, and the titles of those of its panels that have nothing to show. Raises httpx.HTTPError."""
    places = [panel["gridPos"] for panel in board["panels"]]
    width = COLUMN * max(place["x"] + place["w"] for place in places)
    height = ROW * max(place["y"] + place["h"] for place in places) + HEAD
    figure = Figure(figsize=(width, height), facecolor=PAGE)
    FigureCanvasAgg(figure)
    figure.text(
        2 * EDGE / width, 1 - 0.56 * HEAD / height, board["title"], size=15, weight="bold", color=INK, va="center"
    )
    span = f"{_moment(ask.begin):%Y-%m-%d, %H:%M} to {_moment(ask.end):%H:%M} UTC"
    figure.text(1 - 2 * EDGE / width, 1 - 0.56 * HEAD / height, span, size=9.5, color=FAINT, va="center", ha="right")
    empty = []
    for panel in board["panels"]:
        series = [found for target in panel["targets"] for found in ask(target)]
        place = panel["gridPos"]
        _draw_panel(_Frame(figure, place["x"] * COLUMN, HEAD + place["y"] * ROW, place["w"] * COLUMN, place["h"] * ROW),
                    panel, series, ask)  # fmt: skip
        if not series:
            empty.append(panel["title"])
    return figure, empty


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


@dataclass(frozen=True)
class _Frame:
    """A panel's place in the figure, in inches from the left and from the top."""

    figure: Figure
    left: float
    top: float
    width: float
    height: float

    def text(self, x: float, y: float, text: str, **how: Any) -> None:
        wide, high = self.figure.get_size_inches()
        self.figure.text((self.left + x) / wide, 1 - (self.top + y) / high, text, **how)

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        wide, high = self.figure.get_size_inches()
        return self.figure.add_axes(
            ((self.left + x) / wide, 1 - (self.top + y + height) / high, width / wide, height / high)
        )

    def paint(self) -> None:
        wide, high = self.figure.get_size_inches()
        corner = ((self.left + EDGE) / wide, 1 - (self.top + self.height - EDGE) / high)
        size = ((self.width - 2 * EDGE) / wide, (self.height - 2 * EDGE) / high)
        # behind the axes
        box = Rectangle(corner, *size, facecolor=PANEL, edgecolor=LINE, transform=self.figure.transFigure, zorder=-1)
        self.figure.add_artist(box)


def _draw_panel(frame: _Frame, panel: dict[str, Any], series: list[Series], ask: Asker) -> None:
    frame.paint()
    frame.text(0.2, 0.25, panel["title"], size=10.5, weight="bold", color=INK, va="center")
    # Grafana shows it when the pointer is on the title
    meaning = textwrap.wrap(panel["description"], int((frame.width - 0.4) / 0.058))
    for number, line in enumerate(meaning):
        frame.text(0.2, 0.46 + 0.15 * number, line, size=8, color=FAINT, va="center")
    if not series:
        frame.text(frame.width / 2, frame.height / 2, "no data", size=12, color=FAINT, ha="center")
        return
    head = 0.45 + 0.15 * len(meaning)
    body = replace(frame, top=frame.top + head, height=frame.height - head)
    defaults = panel["fieldConfig"]["defaults"]
    limit = next((step["value"] for step in defaults["thresholds"]["steps"] if step["value"] is not None), np.inf)
    {"timeseries": _course, "stat": _numbers, "bargauge": _bars}[panel["type"]](
        body, series, defaults["unit"], limit, ask
    )


def _course(frame: _Frame, series: list[Series], unit: str, limit: float, ask: Asker) -> None:
    """Lines over time, and below them their names with the newest value of each."""
    names = [f"{each.name}  {said(unit, each.last)}" for each in series]
    beside = max(1, min(len(names), int((frame.width - 0.4) / (0.3 + 0.055 * max(map(len, names))))))
    below = 0.42 + 0.165 * -(-len(names) // beside)
    height = frame.height - below - 0.08
    axes = frame.axes(0.85, 0.08, frame.width - 1.1, height)
    for each, name, colour in zip(series, names, cycle(COLOURS), strict=False):
        axes.plot(ask.times, each.values, color=colour, linewidth=1.4, label=name)
        axes.fill_between(ask.times, each.values, color=colour, alpha=0.06, linewidth=0)
    highest = max(float(np.nanmax(each.values)) for each in series)
    # a limit far above what happened would flatten it
    if limit <= 2 * highest or (highest == 0 and np.isfinite(limit)):
        axes.axhline(limit, color=ABOVE, linewidth=1, linestyle=(0, (5, 3)))
        highest = max(highest, limit)
    highest = highest or 1
    size, name = scale_of(unit, highest)
    ticks = size * np.asarray(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(0, highest / size))
    axes.set_yticks(ticks, [f"{_short(tick / size)}{name}" if tick else "0" for tick in ticks])
    axes.set(xlim=(ask.begin, ask.end), ylim=(0, 1.1 * highest))
    step = next((step for step in TICKS if 10 * step >= ask.end - ask.begin), TICKS[-1])
    named = "%H:%M" if step < DAY else "%d %b"
    axes.xaxis.set_major_locator(MultipleLocator(step))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _moment(value).strftime(named)))
    axes.tick_params(length=0, labelsize=8, labelcolor=FAINT, pad=4)
    axes.grid(color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.legend(
        loc="upper left", bbox_to_anchor=(-0.1, -0.26 / height), ncols=beside, fontsize=7.5, frameon=False, borderpad=0,
        borderaxespad=0, handlelength=1, columnspacing=1.4, labelcolor=INK, labelspacing=0.3,
    )  # fmt: skip


def _numbers(frame: _Frame, series: list[Series], unit: str, limit: float, ask: Asker) -> None:
    """The newest value of each, large, with its course behind it."""
    part = (frame.width - 0.3) / len(series)
    for number, each in enumerate(series):
        colour = ABOVE if each.last > limit else BELOW
        left = 0.15 + part * number
        axes = frame.axes(left + 0.04, frame.height - 0.46, part - 0.08, 0.34)
        axes.fill_between(ask.times, each.values, color=colour, alpha=0.14, linewidth=0)
        axes.plot(ask.times, each.values, color=colour, linewidth=1, alpha=0.6)
        axes.set(xlim=(ask.begin, ask.end), ylim=(0, 1.15 * float(np.nanmax(each.values)) or 1))
        axes.axis("off")
        middle, text = left + part / 2, said(unit, each.last)
        frame.text(middle, frame.height - 0.84, text, size=min(24, 0.75 * _fitting(text, part)), weight="bold",
                   color=colour, ha="center", va="center")  # fmt: skip
        frame.text(middle, frame.height - 0.56, each.name, size=min(8.5, _fitting(each.name, part)), color=FAINT,
                   ha="center", va="center")  # fmt: skip


def _fitting(text: str, inches: float) -> float:
    """Points at which a text is as wide: a letter is little wider than half its height."""
    return 72 * inches / (0.58 * len(text))


def _bars(frame: _Frame, series: list[Series], unit: str, limit: float, ask: Asker) -> None:
    """A bar for the newest value of each, the largest first."""
    ordered = sorted(series, key=lambda each: each.last, reverse=True)
    names = 0.3 + 0.075 * max(len(each.name) for each in ordered)
    axes = frame.axes(names, 0.05, frame.width - names - 1.1, frame.height - 0.25)
    lasts = [each.last for each in ordered]
    size = min(8.5, 0.75 * 72 * (frame.height - 0.25) / len(lasts))
    axes.barh(
        range(len(lasts)), lasts, color=[ABOVE if last > limit else BELOW for last in lasts], height=0.62, alpha=0.85
    )
    for position, last in enumerate(lasts):
        axes.annotate(
            said(unit, last), (last, position), (5, 0), textcoords="offset points", size=size, color=INK, va="center"
        )
    if limit <= max(lasts):
        axes.axvline(limit, color=ABOVE, linewidth=1, linestyle=(0, (5, 3)))
    axes.set(xlim=(0, max(lasts) or 1), ylim=(max(len(lasts), 4) - 0.5, -0.5))
    axes.set_yticks(range(len(lasts)), [each.name for each in ordered])
    axes.tick_params(axis="y", length=0, labelsize=size, labelcolor=INK)
    axes.xaxis.set_visible(False)
    for side in axes.spines.values():
        side.set_visible(False)


def main() -> int:
    """Draw every dashboard; 1 where a panel has nothing to show, 2 without a Prometheus."""
    parser = argparse.ArgumentParser(description="Draw the dashboards from what a Prometheus has.")
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090", help="its address")
    parser.add_argument("--minutes", type=float, default=20, help="how far back to look")
    parser.add_argument("--until", type=datetime.fromisoformat, help="the newest moment (ISO 8601); now, if not given")
    parser.add_argument("--to", type=Path, default=IMAGES, help="folder of the pictures")
    given = parser.parse_args()
    end = given.until.timestamp() if given.until else time.time()
    ask = Asker(given.prometheus, end - 60 * given.minutes, end)
    nothing = 0
    for path in sorted(FOLDER.glob("*.json")):
        try:
            figure, empty = draw(json.loads(path.read_text()), ask)
        except httpx.HTTPError as error:
            print(f"{given.prometheus} cannot be asked: {error}", file=sys.stderr)
            return 2
        made = given.to / f"board-{path.stem}.png"
        figure.savefig(made, dpi=100, metadata={"Software": None})
        print(made, *(f"nothing to show in {title!r}" for title in empty), sep="; ")
        nothing += len(empty)
    return 1 if nothing else 0


if __name__ == "__main__":
    sys.exit(main())
