"""A comparison's figures: pooled, as lines of text, held against the target, as JSON.

What belongs here: from measurements to what is shown and written. What does not: measuring, statistics (`ratios`).
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.compare.ratios import ratio
from benchmarks.serving.load import PATIENCE_SECONDS

TARGET = 0.97
"""Of the base, at least, for every figure."""
_LATE_MS = 2.0
"""Later than this at P99 the load has no business to be."""

Figures = dict[str, Any]


def typical_p99(turns: list[Figures]) -> float:
    """P99 of the median second, in the unit of the latencies.

    A machine that others share stops for some milliseconds now and then, and which side has work at that moment is
    chance. Such a stop spoils one second, while it would make the P99 of all latencies together. What got no answer
    counts as PATIENCE_SECONDS in every second, by its share of the turn.
    """
    seconds: list[float] = []
    for turn in turns:
        answers = np.array(turn["latencies"])
        unanswered = turn["unanswered"] / max(len(answers) + turn["unanswered"], 1)
        for second in np.array_split(answers, max(1, round(turn["seconds"]))):
            lost = round(len(second) * unanswered / (1 - unanswered)) if unanswered < 1 else 1
            seconds.append(float(np.percentile(np.append(second, [PATIENCE_SECONDS] * lost), 99)))
    return float(np.median(seconds))


def pooled(turns: list[Figures]) -> Figures:
    """One side's turns of one kind in a pair, as one measurement. Served is who got an answer that is not degraded."""
    served = max(sum(turn["served"] for turn in turns), 1)
    latencies = np.concatenate(
        [turn["latencies"] + [PATIENCE_SECONDS] * turn["unanswered"] for turn in turns]
    )  # whoever got no answer waited as long as one can
    causes: dict[str, int] = {}
    for turn in turns:
        for cause, count in turn["causes"].items():
            causes[cause] = causes.get(cause, 0) + count
    return {
        "sent": sum(turn["sent"] for turn in turns),
        "served": served,
        "served_share": served / max(sum(turn["sent"] for turn in turns), 1),
        "causes": {cause: count for cause, count in causes.items() if count},
        "rate": served / sum(turn["seconds"] for turn in turns),
        "p50_ms": float(np.percentile(latencies, 50)) * 1e3,
        "p99_ms": typical_p99(turns) * 1e3,
        "p99_of_all_ms": float(np.percentile(latencies, 99)) * 1e3,
        "cpu_us": sum(turn["service_seconds"] for turn in turns) / served * 1e6,
        "redis_us": sum(turn["redis_seconds"] for turn in turns) / served * 1e6,
        "busy": sum(turn["service_seconds"] for turn in turns) / sum(turn["took"] for turn in turns),
        "rested_seconds": sum(turn["rested"] for turn in turns),
        "lateness_p99_ms": max(turn["lateness_p99"] for turn in turns) * 1e3,
    }


_SHOWN = (
    ("throughput/s", "saturated", "rate", 0),
    ("P99 ms", "fixed", "p99_ms", 1),
    ("CPU µs", "fixed", "cpu_us", 0),
    ("busy", "saturated", "busy", 2),
)


def heading(rate: float) -> str:
    """The head of the lines of pairs."""
    columns = "".join(f"{f'{name}: base':>20}{'new':>8}" for name, *_ in _SHOWN)
    what = (
        f"P99 of the median second, and CPU µs of the service per payment, at {rate:,.0f}/s; throughput at saturation, "
        "and how busy it was"
    )
    return f"\n{what}\n\npair{columns}  not served"


def line(number: int, pair: Figures) -> str:
    """One pair."""
    cells = [
        f"{pair['base'][phase][name]:>20,.{digits}f}{pair['new'][phase][name]:>8,.{digits}f}"
        for _, phase, name, digits in _SHOWN
    ]
    fixed = [pair[side]["fixed"] for side in ("base", "new")]
    unserved = [each["sent"] - each["served"] for each in fixed]
    return f"{number:>4}{''.join(cells)}  {unserved[0]}, {unserved[1]}"


def ratios(pairs: list[Figures]) -> Figures:
    """Of each figure, so that more is better: throughput and share served new to base, the others base to new."""
    found = {}
    for name, phase, key, inverse in (
        ("throughput", "saturated", "rate", False),
        ("P99", "fixed", "p99_ms", True),
        ("served", "fixed", "served_share", False),
        ("CPU", "fixed", "cpu_us", True),
    ):
        new, base = ([pair[side][phase][key] for pair in pairs] for side in ("new", "base"))
        of = ratio(base, new) if inverse else ratio(new, base)
        found[name] = asdict(of) | {"met": of.at_least >= TARGET}
    return found


def met(figures: Figures) -> bool:
    """Whether every figure is shown to be as good as is asked."""
    return all(each["met"] for each in figures["ratios"].values())


def verdict(figures: Figures) -> str:
    """What came of it, line by line."""
    lines = [f"\nnew beside base, {len(figures['pairs'])} pairs; above 1 is better; each bound holds with 95%\n"]
    for name, each in figures["ratios"].items():
        text = (
            f"{'ok    ' if each['met'] else 'MISSED'} {name:10} {each['estimate']:.3f}, at least {each['at_least']:.3f}"
        )
        lines.append(f"{text} (target {TARGET}), at most {each['at_most']:.3f}{_remark(each)}")
    late = max(pair[side]["fixed"]["lateness_p99_ms"] for pair in figures["pairs"] for side in ("base", "new"))
    if late > _LATE_MS:
        lines.append(f"The load itself was late, by up to {late:.0f} ms at P99 of a turn: the machine had other work")
    return "\n".join(lines)


def _remark(each: Figures) -> str:
    if each["met"]:
        return ""
    return ": slower" if each["at_most"] < TARGET else ": not shown; more pairs narrow it, or a quieter machine"


def write(figures: Figures, folder: Path) -> Path:
    """Everything as compare.json in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "compare.json"
    path.write_text(json.dumps(figures, indent=2, sort_keys=True))
    return path
