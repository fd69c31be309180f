"""Groups of purchases close in time: which row belongs to which group, and when.

What belongs here: index and time arithmetic of groups. What does not: who buys what in them.
"""

from typing import NamedTuple

import numpy as np

from fraud_platform.simulator.randomness import Floats, Ints


class Groups(NamedTuple):
    """Rows of all groups one after the other, arrays of shape (rows,)."""

    group: Ints
    place: Ints
    """0, 1, … within the group."""


def expand(length: Ints) -> Groups:
    """The rows of groups with `length` members each."""
    group = np.repeat(np.arange(len(length)), length)
    first = np.cumsum(length) - length
    return Groups(group, np.arange(len(group)) - first[group])


def stagger(first: Ints, groups: Groups, gap_seconds: Floats) -> Ints:
    """Times in microseconds, to the millisecond: each group starts at `first` and goes on after each row's gap.

    gap_seconds: one per row, the time since the row before; ignored in a group's first row.
    """
    gaps = np.where(groups.place > 0, np.rint(gap_seconds * 1_000), 0).astype(np.int64) * 1_000
    running = np.cumsum(gaps)
    starts = np.flatnonzero(groups.place == 0)
    return first[groups.group] + running - running[starts][groups.group]
