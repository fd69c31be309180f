"""Time-ordered folds inside the days that a training may see, each with the gap that labels need.

What belongs here: windows of days and their examples. What does not: the split into training and holdout (`split`).

    train | gap: labels mature | validation      the next fold's windows end later
                               ^ cut of the fold

A fold's training examples carry the labels known at its cut, as a model trained on that day would have had them; its
validation examples carry those known at the split's training cut, when all of them have matured.
"""

from dataclasses import dataclass
from datetime import date, timedelta

from fraud_platform.features.catalogue import CATALOGUE, Catalogue
from fraud_platform.features.label_rules import LabelRules
from fraud_platform.lake import Lake
from fraud_platform.model.data import Examples, Load, labels_before, load_examples
from fraud_platform.model.split import Split

FOLDS = 2
MIN_FRAUDS = 10
"""Frauds on either side without which a fold teaches nothing."""


@dataclass(frozen=True)
class Fold:
    """Windows of whole UTC days."""

    train: list[date]
    validation: list[date]

    @property
    def cut(self) -> date:
        """Labels that arrived before 00:00 UTC of this day are known to the fold's training."""
        return self.validation[0]


@dataclass(frozen=True)
class FoldExamples:
    """What one fold learns from and is measured on."""

    train: Examples
    validation: Examples


def plan_folds(split: Split, count: int = FOLDS) -> list[Fold]:
    """Up to `count` folds, oldest first; their validation windows lie back to back at the end of the split's."""
    seen = [*split.train, *split.validation]
    length = len(split.validation)
    folds = []
    for back in range(count, 0, -1):
        validation = seen[max(0, len(seen) - back * length) : len(seen) - (back - 1) * length]
        last = validation[0] - timedelta(days=split.waited_days + 1)
        train = [day for day in seen if day <= last]
        if train and len(validation) == length:
            folds.append(Fold(train, validation))
    return folds


def load_folds(
    lake: Lake,
    split: Split,
    rules: LabelRules,
    count: int = FOLDS,
    load: Load = load_examples,
    catalogue: Catalogue = CATALOGUE,
) -> list[FoldExamples]:
    """The folds' examples; folds with fewer than MIN_FRAUDS on either side are left out. load: the training side."""
    matured = labels_before(lake, split.training_cut, rules)
    loaded = []
    for fold in plan_folds(split, count):
        known = labels_before(lake, fold.cut, rules)
        examples = FoldExamples(
            load(lake, fold.train, known, fold.cut, split.waited_days, catalogue),
            load_examples(lake, fold.validation, matured, split.training_cut, split.waited_days, catalogue),
        )
        sides = (examples.train, examples.validation)
        if all(side.frauds >= MIN_FRAUDS and side.frauds < len(side) for side in sides):
            loaded.append(examples)
    return loaded
