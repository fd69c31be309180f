"""What starts by itself because data came: labels that matured or count no more, files of a mapped history that
appeared or changed.

What belongs here: cursors and requests. What does not: counting labels (`monitoring.matured`), reading files
(`ingest.arrivals`).
"""

from datetime import date, datetime
from typing import Any

import dagster as dg
import msgspec

from assets.partitions import key_range_tags
from assets.resources import Platform
from assets.schedules import missing
from assets.sensing import FILES_TAG, RETRAIN_TAG, RULES_TAG, new_days, outcomes, training_request
from fraud_platform.clock import present
from fraud_platform.dataset import follow_source
from fraud_platform.features import tables
from fraud_platform.features.label_change import label_change, stale_since
from fraud_platform.features.label_rules import Distrust, DistrustFile, LabelRules, label_rules
from fraud_platform.ingest.arrivals import MOST_ATTEMPTS, Arrivals, changed_days, known_so_far, look_at_files
from fraud_platform.ingest.mapped_source import MappedSource
from fraud_platform.lake import open_lake
from fraud_platform.model.bundle import Bundle, BundleError, NoReleaseError, current_release
from fraud_platform.monitoring.matured import CountMemory, decide_by_count, matured_frauds
from fraud_platform.monitoring.performance import PERFORMANCE
from fraud_platform.settings import Settings


def matured_labels_retrain(training: Any) -> dg.SensorDefinition:
    """Retrain when FRAUD_MATURED_LABELS_RETRAIN frauds have matured since the champion's data."""

    @dg.sensor(
        name="matured_labels_retrain",
        job=training,
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Starts a training when enough frauds have matured since the champion's data.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        settings = Settings()
        limit = settings.matured_labels_retrain
        if not limit:
            return dg.SkipReason("FRAUD_MATURED_LABELS_RETRAIN is 0: labels alone start no training")
        memory = msgspec.json.decode(context.cursor, type=CountMemory) if context.cursor else CountMemory()
        outcome = outcomes(context.instance, RETRAIN_TAG)
        arrived = list(new_days(context.instance, tables.FRAUD_LABELS, memory.after))
        if not arrived and (memory.last is None or outcome(memory.last.key) != "failed"):
            return dg.SkipReason("no new day of fraud_labels")
        try:
            release = current_release(settings.home)
            holdout_ends = Bundle.load(release).data["split"]["holdout"][1]
        except (NoReleaseError, BundleError, KeyError) as error:
            return dg.SkipReason(f"no champion whose data is known: {error}")
        lake = open_lake(settings)
        known_until = datetime.fromisoformat(holdout_ends).date()
        count, last = matured_frauds(lake, known_until, settings.label_maturity_days, label_rules(settings))
        request, memory = decide_by_count(count, limit, last or known_until, release.name, memory, outcome)
        memory = msgspec.structs.replace(memory, after=arrived[-1][0] if arrived else memory.after)
        said = f"{count:,} frauds have matured since the data of {release.name}; {limit:,} start a training"
        return dg.SensorResult(
            run_requests=[training_request(request)] if request else [],
            skip_reason=None if request else dg.SkipReason(said),
            cursor=msgspec.json.encode(memory).decode(),
        )

    return sensor


def new_files(history: Any) -> dg.SensorDefinition:
    """Build the days of a mapped history whose files have appeared or changed."""

    @dg.sensor(
        name="new_files",
        job=history,
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Builds the days of files that appeared or changed in a mapped history, and all days after them.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        settings = Settings()
        if settings.mapping is None:
            return dg.SkipReason("the simulated bank has no files: its days are made when they are over")
        platform = Platform(settings, present(settings))
        before = msgspec.json.decode(context.cursor, type=Arrivals) if context.cursor else None
        if before is None and missing(platform):
            return dg.SkipReason("the history is not built yet: its first build reads every file there is")
        source = MappedSource.open(settings.mapping, settings)
        known = before or known_so_far(source, platform.dataset)
        now = look_at_files(source, known)
        if now is not known:
            # Dagster's partitions must know the days by which the history grows before one is built
            dataset = follow_source(settings, platform.lake, source, platform.now)
            days = changed_days(known, now, dataset, dataset.last_complete_day(platform.now))
            now = msgspec.structs.replace(now, asked=[days[0], days[-1]] if days else [], attempt=1)
        elif _failed(context.instance, now):
            now = msgspec.structs.replace(now, attempt=now.attempt + 1)
        else:
            return dg.SkipReason("no file has appeared or changed")
        if not now.asked:
            return dg.SensorResult(skip_reason=dg.SkipReason("no day's rows have changed"), cursor=_encoded(now))
        tags = key_range_tags(now.asked) | {FILES_TAG: now.key}
        return dg.SensorResult(run_requests=[dg.RunRequest(run_key=now.key, tags=tags)], cursor=_encoded(now))

    return sensor


class RulesMemory(msgspec.Struct, frozen=True):
    """What the sensor's cursor keeps."""

    ranks: dict[str, int]
    distrusted: tuple[Distrust, ...]
    asked: list[date] = []
    """First and last day of the run that was asked for last."""
    paid: list[date] = []
    """The same of the payments whose outcomes are told anew."""
    attempt: int = 1
    changes: int = 0
    """Events of the record so far: the same rules again are another run."""

    @property
    def rules(self) -> LabelRules:
        """The rules that what stands on labels was built by."""
        return LabelRules(self.ranks, self.distrusted)

    @property
    def key(self) -> str:
        """Of the run that was asked for."""
        return f"labels-{self.rules.digest[:12]}-{self.changes}-{self.attempt}"


def changed_label_rules(relabel: Any, outcomes_job: Any) -> dg.SensorDefinition:
    """Build what stands on labels anew where other labels count than before: distrust, or ranks."""

    @dg.sensor(
        name="label_rules",
        jobs=[relabel, outcomes_job],
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Rebuilds what depends on labels that were distrusted or trusted again.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        settings = Settings()
        rules = label_rules(settings)
        built_by = msgspec.json.decode(context.cursor, type=RulesMemory) if context.cursor else None
        events = len(DistrustFile(settings.home).events())
        memory = RulesMemory(dict(rules.ranks), rules.distrusted, changes=events)
        if built_by is None and not rules.distrusted:
            # whatever there is was built by the rules that are in force
            return dg.SensorResult(skip_reason=dg.SkipReason("no labels are distrusted"), cursor=_said(memory))
        before = built_by.rules if built_by is not None else LabelRules(dict(rules.ranks))
        if before.digest != rules.digest:
            lake, present_ = open_lake(settings), present(settings)
            stale = stale_since(lake, before, rules, present_)
            paid = label_change(lake, before, rules, present_).paid
            judged = [day for day in lake.days(PERFORMANCE) if paid is not None and paid[0] <= day <= paid[1]]
            memory = msgspec.structs.replace(
                memory,
                asked=[stale[0], stale[-1]] if stale else [],
                paid=[judged[0], judged[-1]] if judged else [],
            )
        elif built_by is not None and _has_failed(context.instance, built_by):
            memory = msgspec.structs.replace(built_by, attempt=built_by.attempt + 1)
        else:
            return dg.SkipReason("the same labels count as before")
        if not memory.asked:
            return dg.SensorResult(skip_reason=dg.SkipReason("no day that is built changes"), cursor=_said(memory))
        requests = [_request(memory.key, memory.asked, relabel.name)]
        if memory.paid:
            requests.append(_request(f"{memory.key}-outcomes", memory.paid, outcomes_job.name))
        return dg.SensorResult(run_requests=requests, cursor=_said(memory))

    return sensor


def _request(key: str, days: list[date], job: str) -> dg.RunRequest:
    return dg.RunRequest(run_key=key, tags=key_range_tags(days) | {RULES_TAG: key}, job_name=job)


def _has_failed(instance: dg.DagsterInstance, memory: RulesMemory) -> bool:
    due = bool(memory.asked) and memory.attempt < MOST_ATTEMPTS
    return due and outcomes(instance, RULES_TAG)(memory.key) == "failed"


def _said(memory: RulesMemory) -> str:
    return msgspec.json.encode(memory).decode()


def _failed(instance: dg.DagsterInstance, arrivals: Arrivals) -> bool:
    """Whether the run that was asked for has failed, and may be asked for again."""
    due = bool(arrivals.asked) and arrivals.attempt < MOST_ATTEMPTS
    return due and outcomes(instance, FILES_TAG)(arrivals.key) == "failed"


def _encoded(arrivals: Arrivals) -> str:
    return msgspec.json.encode(arrivals).decode()
