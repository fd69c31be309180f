"""How Dagster's jobs ended, as the sensor writes it down from a real instance."""

import dagster as dg
import pytest

from assets.job_runs import job_runs_of, job_runs_sensor
from fraud_platform.lake import open_lake
from fraud_platform.monitoring.job_runs import read_job_runs
from fraud_platform.settings import Settings


@dg.op(config_schema={"fails": bool})
def step(context: dg.OpExecutionContext) -> None:
    if context.op_config["fails"]:
        raise dg.Failure("as it was asked to", allow_retries=False)


@dg.job
def nightly() -> None:
    step()


def run(instance: dg.DagsterInstance, *, fails: bool) -> None:
    config = {"ops": {"step": {"config": {"fails": fails}}}}
    nightly.execute_in_process(instance=instance, run_config=config, raise_on_error=False)


def test_the_last_success_and_the_last_failure_are_known(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUD_HOME", str(settings.home))
    with dg.DagsterInstance.ephemeral() as instance:
        assert job_runs_of(instance, ["nightly"])["nightly"].last_success == 0
        run(instance, fails=False)
        run(instance, fails=True)
        failed = job_runs_of(instance, ["nightly"])["nightly"]
        assert failed.last_failure > failed.last_success > failed.last_duration > 0
        run(instance, fails=False)
        with dg.build_sensor_context(instance=instance) as context:
            job_runs_sensor(["nightly", "training"]).evaluate_tick(context)
    known = read_job_runs(open_lake(settings))
    assert known["nightly"].last_success > known["nightly"].last_failure == failed.last_failure
    assert known["training"].last_success == known["training"].last_failure == 0
