"""The sensor that writes down how jobs ended, for those who may not ask Dagster: the platform's metrics.

What belongs here: asking Dagster's instance. What does not: the record (`fraud_platform.monitoring.job_runs`), alerts,
which Prometheus raises by it. A daemon that is dead writes nothing, and the age of the last success tells.
"""

import dagster as dg

from fraud_platform.lake import open_lake
from fraud_platform.monitoring.job_runs import JobRuns, write_job_runs
from fraud_platform.settings import Settings

_FAILED = [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


def job_runs_of(instance: dg.DagsterInstance, jobs: list[str]) -> dict[str, JobRuns]:
    """The last success and the last failure of each job."""
    return {job: _of(instance, job) for job in jobs}


def _of(instance: dg.DagsterInstance, job: str) -> JobRuns:
    began, succeeded = _last(instance, job, [dg.DagsterRunStatus.SUCCESS])
    _, failed = _last(instance, job, _FAILED)
    return JobRuns(last_success=succeeded, last_failure=failed, last_duration=succeeded - began)


def _last(instance: dg.DagsterInstance, job: str, statuses: list[dg.DagsterRunStatus]) -> tuple[float, float]:
    """Start and end of the job's newest run with one of these statuses, Unix seconds; zeros where there is none."""
    records = instance.get_run_records(dg.RunsFilter(job_name=job, statuses=statuses), limit=1)
    if not records or records[0].end_time is None:
        return 0.0, 0.0
    return records[0].start_time or records[0].end_time, records[0].end_time


def job_runs_sensor(jobs: list[str]) -> dg.SensorDefinition:
    """Looks at these jobs every half minute."""

    @dg.sensor(
        name="job_runs",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Records when each job last succeeded and last failed; metrics are made from it.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        found = job_runs_of(context.instance, jobs)
        write_job_runs(open_lake(Settings()), found)
        return dg.SkipReason(f"{sum(bool(each.last_success) for each in found.values())} of {len(found)} jobs have run")

    return sensor
