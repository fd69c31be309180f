"""The bank that a scenario begins with: its history and first model, built once and copied for each scenario.

What belongs here: the copy and what makes two banks the same. What does not: building (`stage`), playing (`play`).
"""

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.scenario.stage import Stage
from fraud_platform.scenario.story import FIRST_DAY, Story
from fraud_platform.settings import Settings

MARK = "scenario.txt"
"""In a home that belongs to scenarios: it may be removed to begin again."""
_READY = "bank.ready"


class NotAScenarioError(RuntimeError):
    """The folder holds something else than a scenario's home, and is left alone."""


def bank_settings(story: Story, home: Path, ports: dict[str, int]) -> Settings:
    """The settings that the bank is built with. Raises pydantic's ValidationError for one that does not fit."""
    return Settings(**_given(story, home, ports))


def scenario_settings(story: Story, home: Path, ports: dict[str, int]) -> Settings:
    """The settings of a scenario while it is played. Raises pydantic's ValidationError for one that does not fit."""
    return Settings(**(_given(story, home, ports) | {"bank_changes": story.changes} | story.settings))


def _given(story: Story, home: Path, ports: dict[str, int]) -> dict[str, Any]:
    return {
        "home": home.absolute(),
        "clock_file": home.absolute() / "clock",
        "history_start": story.history_start,
        "users": story.bank.users,
        "merchants": story.bank.merchants,
        "transactions_per_day": story.bank.payments_a_day,
        "bank_behaviour": story.bank.behaviour,
        **ports,
        **story.bank.settings,
    }


def begin(story: Story, home: Path, banks: Path, ports: dict[str, int], say: Callable[[str], None]) -> None:
    """Put the story's bank into an empty home. banks: where banks are kept for the next scenario.

    Raises NotAScenarioError when the home is somebody else's, StageError.
    """
    if home.exists() and any(home.iterdir()) and not (home / MARK).exists():
        raise NotAScenarioError(f"{home} is not a scenario's home; name another folder with --home")
    kept = banks / _name(story)
    if not (kept / _READY).exists():
        say(f"a bank of {story.bank.users:,} users is built, from {story.history_start} on, and its first model")
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(parents=True)
        stage = Stage(bank_settings(story, kept, ports))
        try:
            stage.build()
        finally:
            stage.close()
        (kept / _READY).touch()
    shutil.rmtree(home, ignore_errors=True)
    home.parent.mkdir(parents=True, exist_ok=True)
    # with owners: PostgreSQL refuses a folder that is not its user's
    subprocess.run(["cp", "-a", str(kept), str(home)], check=True)
    (home / MARK).write_text(f"{story.title}\n")


def _name(story: Story) -> str:
    """Of everything that the bank is built of."""
    made_of = [msgspec.to_builtins(story.bank), FIRST_DAY.isoformat(), CATALOGUE.hash]
    return f"bank-{hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:12]}"
