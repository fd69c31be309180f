"""The dashboards' files beside the code that makes them, their limits beside the alerts', and their pictures."""

import re
from typing import Any

import httpx
import numpy as np
import pytest
from matplotlib.figure import Figure

from deploy.grafana import boards, picture
from tests.unit.test_alert_rules import ALERTS


@pytest.mark.parametrize("name", boards.BOARDS)
def test_a_dashboards_file_is_what_its_code_makes(name: str) -> None:
    made = (boards.FOLDER / f"{name}.json").read_text()
    assert made == boards.text(name), "python deploy/grafana/boards.py writes it"


@pytest.mark.parametrize("name", boards.BOARDS)
def test_panels_cover_each_others_place_nowhere(name: str) -> None:
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in boards.board(name)["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < boards.COLUMNS


def test_a_panels_limit_is_that_of_the_alert_it_names() -> None:
    limits = [panel.limit for _, panels in boards.BOARDS.values() for panel in panels if panel.limit]
    assert limits
    for alert, limit in limits:
        assert f"> {limit:g}" in re.sub(r"\s+", " ", ALERTS[alert]["expr"])


def prometheus(request: httpx.Request) -> httpx.Response:
    """One that answers `up` with two series, of which one begins late, and anything else with none."""
    begin, step = float(request.url.params["start"]), float(request.url.params["step"])
    values = [[begin + step * number, str(number)] for number in range(picture.POINTS)]
    series = [
        {"metric": {"job": "early"}, "values": values},
        {"metric": {"job": "late"}, "values": [[moment, "0.5"] for moment, _ in values[-3:]]},
        {"metric": {"job": "never"}, "values": [[values[0][0], "NaN"], [values[1][0], "+Inf"]]},
    ]
    result = series if request.url.params["query"] == "up" else []
    return httpx.Response(200, json={"status": "success", "data": {"result": result}})


@pytest.fixture
def ask() -> picture.Asker:
    return picture.Asker("http://prometheus", 1_000.0, 1_478.0, httpx.MockTransport(prometheus))


def test_an_answer_is_put_on_the_moments_that_were_asked_for(ask: picture.Asker) -> None:
    early, late = ask({"expr": "up", "legendFormat": "the {{job}} one"})
    assert (early.name, late.name) == ("the early one", "the late one")
    assert early.values.tolist() == list(range(picture.POINTS))
    assert np.isnan(late.values[:-3]).all()
    assert (early.last, late.last) == (239, 0.5)


def words(figure: Figure) -> set[str]:
    found = [each.get_text() for each in figure.texts]
    for axes in figure.axes:
        legend = axes.get_legend()
        found += [each.get_text() for each in (*axes.texts, *(legend.get_texts() if legend else []))]
        found += [each.get_text() for each in axes.get_yticklabels()]
    return set(found)


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        ("timeseries", {"early  239 req/s", "late  0.5 req/s"}),
        ("stat", {"239 req/s", "early", "0.5 req/s", "late"}),
        ("bargauge", {"239 req/s", "early", "0.5 req/s", "late"}),
    ],
)
def test_a_picture_shows_title_meaning_names_numbers_and_what_is_above_its_limit(
    kind: str, shown: set[str], ask: picture.Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    panels = [
        boards.Panel("Some", "reqps", {"{{job}}": "up"}, "Of both.", kind, ("FraudAlert", 200)),
        boards.Panel("None", "reqps", {"{{job}}": "down"}, kind=kind),
    ]
    monkeypatch.setitem(boards.BOARDS, "test", ("A board", panels))
    figure, empty = picture.draw(boards.board("test"), ask)
    assert empty == ["None"]
    assert words(figure) >= {"A board", "Some", "Of both. Red: FraudAlert.", "None", "no data", *shown}
    assert picture.ABOVE in colours(figure)


def colours(figure: Figure) -> set[Any]:
    lines = [line.get_color() for axes in figure.axes for line in axes.lines]
    return {*lines, *(text.get_color() for text in figure.texts)}


@pytest.mark.parametrize(
    ("unit", "value", "text"),
    [
        ("percentunit", 0.00123, "0.123%"),
        ("s", 0.0000421, "42.1 µs"),
        ("s", 7_200, "2 h"),
        ("s", 0, "0"),
        ("bytes", 3 * 2**20, "3 MiB"),
        ("bytes", 0.5, "0.5 B"),
        ("none", 198_381, "198,381"),
        ("ops", 2.5, "2.5/s"),
    ],
)
def test_numbers_are_said_as_people_read_them(unit: str, value: float, text: str) -> None:
    assert picture.said(unit, value) == text
