"""What starts by itself because something happened: trainings, alerts.

What belongs here: cursors over Dagster's events, and requests. What does not: the rules (`fraud_platform.monitoring`).
A sensor reads every event since its cursor, not the newest alone: a drifted day followed by a calm one is not missed.
"""

from collections.abc import Callable, Sequence
from datetime import date, timedelta
from typing import Any

import dagster as dg
import msgspec

from assets.data_sensors import changed_label_rules, matured_labels_retrain, new_files
from assets.resources import Platform
from assets.sensing import RETRAIN_TAG, new_days, outcomes, training_request
from fraud_platform.clock import present
from fraud_platform.inference_log.broker import BrokerError
from fraud_platform.inference_log.standing import log_standing
from fraud_platform.lake import Lake, open_lake
from fraud_platform.model.bundle import NoReleaseError, current_release
from fraud_platform.model.rollout import look, on_trial, take_step
from fraud_platform.monitoring.alerts import Alert, AlertBook
from fraud_platform.monitoring.drift import FEATURE_DRIFT
from fraud_platform.monitoring.performance import PERFORMANCE
from fraud_platform.monitoring.retrain import Memory, decide
from fraud_platform.monitoring.signals import Signal, drift_signals, performance_signals
from fraud_platform.settings import Settings

Signals = Callable[[Lake, Settings, date], Sequence[Signal]]


def alert_book(settings: Settings) -> AlertBook:
    """The alerts of this home."""
    return AlertBook(settings.home, settings.notify, timedelta(hours=settings.notify_quiet_hours))


def sensors(resolved: dict[str, Any]) -> list[dg.SensorDefinition]:
    """Trainings and alerts apart, since an address that takes no alert must not keep a training back; all on."""
    training = resolved["training"]
    return [
        _retrains("drift_retrains", FEATURE_DRIFT, drift_signals, training,
                  "Starts a training when a feature is above its limit on a new day of feature_drift."),
        _retrains("performance_retrains", PERFORMANCE, performance_signals, training,
                  "Starts a training when a fraud rate is outside its band on a new day of performance."),
        _alerts("drift_alerts", FEATURE_DRIFT, drift_signals,
                "Sends an alert for features and scores above their limit."),
        _alerts("performance_alerts", PERFORMANCE, performance_signals,
                "Sends an alert for fraud rates and false positives outside their bands."),
        _packages_the_champion(resolved["packaging"]),
        matured_labels_retrain(training),
        new_files(resolved["history"]),
        changed_label_rules(resolved["relabel"], resolved["outcomes"]),
        rollout,
        log_lag_alerts,
        failed_run_alerts,
        warned_run_alerts,
    ]  # fmt: skip


def _retrains(name: str, asset: str, signals_of: Signals, training: Any, description: str) -> dg.SensorDefinition:
    @dg.sensor(
        name=name,
        job=training,
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=description,
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        settings = Settings()
        lake, outcome = open_lake(settings), outcomes(context.instance, RETRAIN_TAG)
        memory = msgspec.json.decode(context.cursor, type=Memory) if context.cursor else Memory()
        days: list[tuple[int, date | None]] = [*new_days(context.instance, asset, memory.after)]
        requests = []
        # without a new day: a training that failed may be due again
        for number, day in days or [(memory.after, None)]:
            # a challenger on trial is the answer already, and another training would take its place
            found = signals_of(lake, settings, day) if day and not on_trial(settings.home) else []
            request, memory = decide(found, memory, outcome, settings.retrain_cooldown_days)
            memory = msgspec.structs.replace(memory, after=number)
            requests += [request] if request else []
        if not days and not requests:
            return dg.SkipReason(f"no new day of {asset}")
        return dg.SensorResult(
            run_requests=[training_request(request) for request in requests],
            cursor=msgspec.json.encode(memory).decode(),
        )

    return sensor


def _alerts(name: str, asset: str, signals_of: Signals, description: str) -> dg.SensorDefinition:
    @dg.sensor(
        name=name,
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=description,
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        settings = Settings()
        lake, after = open_lake(settings), int(context.cursor or 0)
        days = list(new_days(context.instance, asset, after))
        found = [signal for _, day in days for signal in signals_of(lake, settings, day) if signal.action != "none"]
        alerts = [Alert(each.cause, f"{each.release} {each.subject}", each.sentence) for each in found]
        # where nobody takes them the tick fails, and its days are looked at again
        told = alert_book(settings).tell(alerts, present(settings))
        said = f"{len(days)} new days of {asset}, {len(alerts)} signals, {len(told)} of them new and told"
        return dg.SensorResult(skip_reason=dg.SkipReason(said), cursor=str(days[-1][0] if days else after))

    return sensor


@dg.sensor(
    name="rollout",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Moves a challenger from shadow to canary to champion by evidence; harm takes it out at once.",
)
def rollout(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """One look at the challenger."""
    settings = Settings()
    platform = Platform(settings, present(settings))
    found = look(platform.lake, platform.settings, platform.now)
    if found is None:
        return dg.SkipReason("there is no challenger")
    routing, evidence, step = found
    done = take_step(platform.settings, routing, evidence, step, "sensor rollout", platform.now)
    said = f"{routing.challenger} ({routing.stage}, {routing.weight:.0%}): {step.action}: {'; '.join(step.reasons)}"
    context.log.info(said)
    if done and step.action in ("roll_back", "promote"):
        alert_book(platform.settings).tell([Alert(step.action, routing.challenger or "", said)], platform.now)
    return dg.SkipReason(said)


@dg.sensor(
    name="log_lag_alerts",
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Sends an alert when more decisions than FRAUD_LOG_LAG_ALERT wait in the broker.",
)
def log_lag_alerts(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Ask the broker how far the lake is behind."""
    settings = Settings()
    try:
        lag = log_standing(settings).lag
    except BrokerError as error:
        alert_book(settings).tell([Alert("broker_down", "inference log", str(error))], present(settings))
        return dg.SkipReason(f"the broker does not answer: {error}")
    if lag > settings.log_lag_alert:
        text = f"{lag:,} decisions wait in the broker, the limit is {settings.log_lag_alert:,}"
        alert_book(settings).tell([Alert("log_lag", "inference log", text)], present(settings))
    return dg.SkipReason(f"{lag:,} decisions are behind")


def _packages_the_champion(packaging: Any) -> dg.SensorDefinition:
    @dg.sensor(
        name="packages_the_champion",
        job=packaging,
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Packages each release that comes into force, by whatever way.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        try:
            release = current_release(Settings().home).name
        except NoReleaseError as error:
            return dg.SkipReason(str(error))
        if release == context.cursor:
            return dg.SkipReason(f"{release} was packaged before")
        context.update_cursor(release)
        return dg.RunRequest(tags={"fraud/release": release})

    return sensor


@dg.run_failure_sensor(
    name="failed_run_alerts",
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Sends an alert for each job whose run has failed.",
)
def failed_run_alerts(context: dg.RunFailureSensorContext) -> None:
    """One alert per job, however many of its runs fail."""
    run = context.dagster_run
    text = f"run {run.run_id} of {run.job_name} failed: {context.failure_event.message or 'no message'}"
    checks = _failed_checks(context.instance, run.run_id, dg.AssetCheckSeverity.ERROR)
    if checks:
        broken = ", ".join(f"check {one.check_name} of {one.asset_key.to_user_string()}" for one in checks)
        text += f"; what broke: {broken}; what to do: docs/runbooks/FraudJobFailed.md"
    settings = Settings()
    alert_book(settings).tell([Alert("failed_run", run.job_name, text)], present(settings))


@dg.run_status_sensor(
    run_status=dg.DagsterRunStatus.SUCCESS,
    name="warned_run_alerts",
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Sends an alert for each warning of a run that says what to do.",
)
def warned_run_alerts(context: dg.RunStatusSensorContext) -> None:
    """One alert per check and asset, however many runs warn. Drift and performance have sensors of their own."""
    run, settings = context.dagster_run, Settings()
    alerts = []
    for one in _failed_checks(context.instance, run.run_id, dg.AssetCheckSeverity.WARN):
        remedy, asset = one.metadata.get("remedy"), one.asset_key.to_user_string()
        if remedy is not None:
            said = f"check {one.check_name} of {asset} warns in run {run.run_id} of {run.job_name}"
            alerts.append(Alert("warning", f"{asset} {one.check_name}", f"{said}; what to do: {remedy.value}"))
    alert_book(settings).tell(alerts, present(settings))


def _failed_checks(
    instance: dg.DagsterInstance, run_id: str, severity: dg.AssetCheckSeverity
) -> list[dg.AssetCheckEvaluation]:
    """The checks of a severity that a run has failed."""
    found = []
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION):
        data = entry.get_dagster_event().event_specific_data
        if isinstance(data, dg.AssetCheckEvaluation) and not data.passed and data.severity == severity:
            found.append(data)
    return found
