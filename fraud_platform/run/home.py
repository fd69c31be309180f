"""The home of all local state: its folders, Dagster's instance file, the environment of what is started in it.

What belongs here: where things lie under `<home>`. What does not: starting anything. As a command,
`python -m fraud_platform.run.home` prepares the home and prints its DAGSTER_HOME, for work by hand.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from fraud_platform.homes import begin_home
from fraud_platform.private import keep_private, private_folder
from fraud_platform.settings import Settings

PROJECT = Path(__file__).resolve().parents[2]
"""The checkout: `workspace.yaml`, `assets` and `bento` are found in it."""

MARK = "FRAUD_PLATFORM_CHILD_OF"
"""Set in the environment of every process that `up` starts, and so of theirs: the home they belong to."""

DAGSTER_YAML = """\
# Dagster's instance on one machine: sqlite beside this file. Written once; edit it as you like.
telemetry:
  enabled: false
# no invitation in front of the first page
nux:
  enabled: false
# a run whose process was killed is started again; a failed step or check is an answer and is not
run_retries:
  enabled: true
  max_retries: 2
  retry_on_asset_or_op_failure: false
# one run at a time: DuckDB and XGBoost already use every core
concurrency:
  runs:
    max_concurrent_runs: 1
run_monitoring:
  enabled: true
  start_timeout_seconds: 300
"""
RETENTION_YAML = """\
# what each look of a schedule or a sensor found; Dagster's own default keeps all but the skipped for good
retention:
  schedule: {purge_after_days: 30}
  sensor: {purge_after_days: {skipped: 1, success: 7, started: 7, failure: 30}}
"""
"""Also added to an instance file that has none; `retention: {}` in one stands for Dagster's own default."""


@dataclass(frozen=True)
class Home:
    """Paths under one home; all absolute."""

    root: Path

    @property
    def dagster(self) -> Path:
        """DAGSTER_HOME."""
        return self.root / "dagster"

    @property
    def logs(self) -> Path:
        """One file per process."""
        return self.root / "log"

    @property
    def run(self) -> Path:
        """Pid files and the lock of `up`."""
        return self.root / "run"

    @property
    def current_release(self) -> Path:
        """The record of the model in force, absent before the first build ended."""
        return self.root / "releases" / "current.json"

    def prepare(self) -> str | None:
        """Create the folders and Dagster's instance where they are missing; what exists is left as it is, but for a
        retention that Dagster's instance file lacks. Returns what was done about that, None where nothing was.

        Dagster's processes corrupt their sqlite files for good when several create them at once, or one is killed while
        it does. So one command creates them in a folder of its own, which then gets its name in one step.
        """
        # a gateway in a container of its own mounts the last two, and nothing else of the home
        begin_home(self.root)
        for folder in (self.logs, self.run, self.root / "policy", self.root / "gateway"):
            private_folder(folder)
        with (self.run / "prepare.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self.dagster.exists():
                return self._complete_dagster()
            self._create_dagster()
        return None

    def _complete_dagster(self) -> str | None:
        """Add the retention to an instance file of an older version, below what stands there."""
        path = self.dagster / "dagster.yaml"
        if not path.exists():
            return None
        before = path.read_text()
        after = f"{before.rstrip()}\n{RETENTION_YAML}"
        try:
            said = yaml.safe_load(before) or {}
            if "retention" in said:
                return None
            if yaml.safe_load(after) != said | yaml.safe_load(RETENTION_YAML):
                raise ValueError("below what stands there it would mean something else")
            unfinished = path.with_suffix(".tmp")
            unfinished.write_text(after)
            unfinished.replace(path)
        except (yaml.YAMLError, TypeError, ValueError, OSError) as error:
            return f"{path} has no `retention`, so Dagster keeps ticks for good; add one as a new home has it ({error})"
        return f"{path} has a `retention` of ticks now; `retention: {{}}` in it gives Dagster's own back."

    def _create_dagster(self) -> None:
        unfinished = self.root / "dagster.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        (unfinished / "dagster.yaml").write_text(DAGSTER_YAML + RETENTION_YAML)
        done = subprocess.run(
            [sys.executable, "-m", "dagster", "instance", "info"],
            env={**os.environ, "DAGSTER_HOME": str(unfinished)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            start_new_session=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"Dagster could not create its instance in {unfinished}: {done.stdout}{done.stderr}")
        unfinished.replace(self.dagster)

    def environment(self, settings: Settings) -> dict[str, str]:
        """Environment of a child: these settings, and this home."""
        environment = dict(os.environ) | settings.environment()
        environment.update(
            FRAUD_HOME=str(self.root),
            DAGSTER_HOME=str(self.dagster),
            BENTOML_DO_NOT_TRACK="true",
            DO_NOT_TRACK="true",
            PYTHONUNBUFFERED="1",
            # libraries' notes to their own developers would bury what a person should read
            PYTHONWARNINGS="ignore",
        )
        environment[MARK] = str(self.root)
        return environment


def open_home(settings: Settings) -> Home:
    """The home that the settings name; creates nothing."""
    return Home(settings.home.absolute())


if __name__ == "__main__":
    keep_private()
    _home = open_home(Settings())
    _said = _home.prepare()
    if _said:
        print(_said, file=sys.stderr)
    print(_home.dagster)
