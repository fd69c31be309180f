"""`python -m assets.bootstrap`: brings this home up to date, running in Dagster whatever is missing, and nothing else.

What belongs here: deciding what is missing and running the jobs in this process, which pays the heavy imports once.
What does not: what a job does. Killed and started again, it ends in the same state.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from types import FrameType
from typing import Any

import dagster as dg
import psutil

from assets.partitions import key_range_tags
from assets.resources import Platform
from assets.schedules import DAILY_ASSETS, assets_of, missing
from fraud_platform.clock import present
from fraud_platform.features.gaps import Unbuilt, daily_tables
from fraud_platform.lake import days_between
from fraud_platform.model.registry import close_orphan_runs, resume_promotion
from fraud_platform.model.split import TrainingDataError
from fraud_platform.run.current import cold_is_loaded, mark_built, online_is_current, release_is_usable
from fraud_platform.run.deciding import who_decides
from fraud_platform.settings import Settings

PROCESS_TAG = "fraud/process"
"""Tag of runs executed by this command: `pid:start time`, by which a later start knows that their process is gone."""


class BuildFailed(RuntimeError):  # noqa: N818 - reads as the condition it names
    """A job of the build did not succeed; the message names its failed steps and checks."""


def _process() -> str:
    return f"{os.getpid()}:{psutil.Process().create_time():.0f}"


def _alive(process: str) -> bool:
    pid, _, started = process.partition(":")
    try:
        return f"{psutil.Process(int(pid)).create_time():.0f}" == started
    except psutil.NoSuchProcess:
        return False


def close_dead_runs(instance: dg.DagsterInstance) -> int:
    """Mark runs whose process was killed as failed; returns how many."""
    unfinished = dg.RunsFilter(
        statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.NOT_STARTED]
    )
    dead = [
        run for run in instance.get_runs(unfinished) if PROCESS_TAG in run.tags and not _alive(run.tags[PROCESS_TAG])
    ]
    for run in dead:
        instance.report_run_failed(run, "the process of this run is gone")
    return len(dead)


def _unfinished(instance: dg.DagsterInstance, run_id: str) -> bool:
    run = instance.get_run_by_id(run_id)
    return run is not None and not run.is_finished


def unbuilt(platform: Platform, instance: dg.DagsterInstance) -> list[Unbuilt]:
    """Tables of days that are missing in the lake or unknown to Dagster, each to the newest day, one after the other;
    empty when all is current."""
    parts = missing(platform)
    wanted = platform.dataset.days(platform.now)
    known = [set(instance.get_materialized_partitions(dg.AssetKey(name))) for name in DAILY_ASSETS]
    for day in wanted:
        if any(day.isoformat() not in partitions for partitions in known):
            first = min([day, *(part.days[0] for part in parts)])
            return [Unbuilt(daily_tables(platform.catalogue), tuple(days_between(first, wanted[-1])))]
    return parts


def _run(job: str, instance: dg.DagsterInstance, tags: dict[str, str], selected: Sequence[str] | None = None) -> None:
    result = _executed(job, instance, tags, selected)
    if not result.success:
        raise BuildFailed(_failures(job, result))


def _train(settings: Settings, instance: dg.DagsterInstance) -> None:
    """Train a model. One that the gate refuses is an answer, and so are data that no model can be trained on: the rules
    decide until another passes."""
    result = _executed("training", instance, {})
    if result.success:
        return
    refused = any(check.check_name == "gate" and not check.passed for check in result.get_asset_check_evaluations())
    # a message of Dagster begins with the name of its class
    untrainable = [
        error.message.strip().partition(": ")[2]
        for error in _errors(result)
        if error.cls_name == TrainingDataError.__name__
    ]
    if not refused and not untrainable:
        raise BuildFailed(_failures("training", result))
    print("\n".join(f"! {line}" for line in [*untrainable, who_decides(settings)]), file=sys.stderr, flush=True)


def _executed(
    job: str, instance: dg.DagsterInstance, tags: dict[str, str], selected: Sequence[str] | None = None
) -> dg.ExecuteInProcessResult:
    """selected: assets of the job; None: all of them."""
    # the definitions read partitions from the dataset, so they are imported once it is fixed
    from assets.definitions import defs

    return defs.resolve_job_def(job).execute_in_process(
        instance=instance,
        tags=tags | {PROCESS_TAG: _process()},
        asset_selection=None if selected is None else [dg.AssetKey(name) for name in selected],
        run_config={"loggers": {"console": {"config": {"log_level": "INFO"}}}},
        raise_on_error=False,
    )


def _failures(job: str, result: dg.ExecuteInProcessResult) -> str:
    failed = [f"{event.step_key}: {event.step_failure_data.error_display_string}"
              for event in result.all_events if event.is_step_failure]  # fmt: skip
    return f"{job} failed\n" + "\n".join(failed)


def _errors(result: dg.ExecuteInProcessResult) -> Iterator[Any]:
    """What failed steps raised, causes included, as Dagster keeps it."""
    for event in result.all_events:
        error = event.step_failure_data.error if event.is_step_failure else None
        while error is not None:
            yield error
            error = error.cause


def _stage(title: str, work: Callable[[], None]) -> None:
    started = time.monotonic()
    print(f"→ {title}", file=sys.stderr, flush=True)
    work()
    print(f"✓ {title} ({time.monotonic() - started:.0f} s)", file=sys.stderr, flush=True)


def build(settings: Settings, now: datetime) -> None:
    """Bring the home up to date. Raises BuildFailed."""
    platform = Platform(settings, now)
    platform.opened  # noqa: B018 - fixes which history this home holds, before Dagster reads its partitions
    with dg.DagsterInstance.get() as instance:
        close_dead_runs(instance)
        close_orphan_runs(settings, lambda run_id: _unfinished(instance, run_id))
        resume_promotion(settings)
        for part in unbuilt(platform, instance):
            selected, days = assets_of(part.tables), part.days
            of = "" if selected == DAILY_ASSETS else f" of {', '.join(selected)}"
            title = f"history: {len(days)} day(s), {days[0]} to {days[-1]}{of}"
            _stage(title, partial(_run, "history", instance, key_range_tags(days), selected))
        if not online_is_current(settings, platform.dataset.last_complete_day(now)):
            _stage("online store: snapshot and velocity to Redis", lambda: _run("online", instance, {}))
        if not release_is_usable(settings):
            _stage("model: search, train, register, judge", lambda: _train(settings, instance))
        if not cold_is_loaded(settings):
            _stage("cold store: snapshot to PostgreSQL", lambda: _run("cold", instance, {}))
    mark_built(settings, platform.dataset.last_complete_day(now))


def _interrupted(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Exit code 0 when everything is current, 1 when a job failed, 130 when interrupted."""
    signal.signal(signal.SIGTERM, _interrupted)
    settings = Settings()
    dagster_home = (settings.home / "dagster").absolute()
    dagster_home.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("DAGSTER_HOME", str(dagster_home))
    try:
        build(settings, present(settings))
    except BuildFailed as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the next start goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
