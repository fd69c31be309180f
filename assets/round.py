"""A night and a look of Dagster at a moment of the platform's clock, on demand: how scenarios let days pass in minutes.

What belongs here: evaluating the code location's own schedules and sensors, and running what they ask for in this
process. What does not: any rule. `python -m assets.round` takes a word a line, `night` or `look`, and answers each with
a line of JSON. The daemon does the same by the machine's clock.
"""

import json
import os
import sys
from datetime import timedelta
from typing import Any

import dagster as dg

from assets.definitions import build_definitions
from assets.sensing import RETRAIN_TAG
from fraud_platform.clock import present
from fraud_platform.settings import Settings

DAILY_SCHEDULES = ("daily_decisions", "nightly_features", "daily_watching", "daily_outcomes")
"""In the order of their hours. The weekly ones are left out: a scenario shows what the loop does of itself."""
TICKING_SENSORS = ("drift_retrains", "performance_retrains", "drift_alerts", "performance_alerts", "rollout")


class Round:
    """The schedules and sensors of the code location, with each sensor's cursor."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        settings = Settings()
        self._instance = instance
        self._definitions = build_definitions(settings, present(settings))
        self._repository = self._definitions.get_repository_def()
        self._cursors: dict[str, str | None] = {}

    def night(self) -> dict[str, Any]:
        """What happens between two days: the daily schedules, then every sensor until none asks for anything."""
        answer: dict[str, Any] = {"failed": [], "trainings": [], "said": {}}
        # after the last of them has its hour, so that each has its say about yesterday
        moment = present(Settings()) + timedelta(hours=4)
        for name in DAILY_SCHEDULES:
            schedule = self._repository.get_schedule_def(name)
            context = dg.build_schedule_context(
                instance=self._instance, scheduled_execution_time=moment, repository_def=self._repository
            )
            ticked = schedule.evaluate_tick(context)
            for request in ticked.run_requests or ():
                self._run(schedule.job_name, request, answer)
        for name in TICKING_SENSORS:
            self._tick(name, answer)
        return answer

    def look(self) -> dict[str, Any]:
        """One look at the challenger."""
        answer: dict[str, Any] = {"failed": [], "trainings": [], "said": {}}
        self._tick("rollout", answer)
        return answer

    def _tick(self, name: str, answer: dict[str, Any]) -> None:
        sensor = self._repository.get_sensor_def(name)
        with dg.build_sensor_context(
            instance=self._instance, cursor=self._cursors.get(name), repository_def=self._repository, sensor_name=name
        ) as context:
            ticked = sensor.evaluate_tick(context)
        self._cursors[name] = ticked.cursor or self._cursors.get(name)
        if ticked.skip_message:
            answer["said"][name] = ticked.skip_message
        for request in ticked.run_requests or ():
            if RETRAIN_TAG in request.tags:
                answer["trainings"].append({key.removeprefix("fraud/"): value for key, value in request.tags.items()})
            if sensor.job_name is None:
                raise LookupError(f"sensor {name} asks for a run and names no job")
            self._run(sensor.job_name, request, answer)

    def _run(self, job: str, request: dg.RunRequest, answer: dict[str, Any]) -> None:
        result = self._definitions.resolve_job_def(job).execute_in_process(
            instance=self._instance,
            tags=dict(request.tags),
            asset_selection=request.asset_selection,
            raise_on_error=False,
        )
        if not result.success:
            answer["failed"] += [
                f"{job}: {event.step_key}: {event.step_failure_data.error_display_string}"
                for event in result.all_events
                if event.is_step_failure
            ]


def main() -> None:
    """Answer until the input ends."""
    # what libraries print must not get between the answers
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with dg.DagsterInstance.get() as instance:
        made = Round(instance)
        does = {"night": made.night, "look": made.look}
        for line in sys.stdin:
            answers.write(json.dumps(does[line.strip()]()) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
