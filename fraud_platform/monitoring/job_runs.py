"""When each job of the orchestrator last went well, last failed, and how long it took: written by whoever runs them.

What belongs here: the record and its place in the lake. What does not: asking the orchestrator, which `assets` does.
"""

import msgspec

from fraud_platform.lake import Lake

_RECORD = "job_runs"


class JobRuns(msgspec.Struct, frozen=True, kw_only=True):
    """The last runs of one job that have ended. Times are Unix seconds; 0: never."""

    last_success: float = 0.0
    last_failure: float = 0.0
    """A run that failed or was canceled."""
    last_duration: float = 0.0
    """Seconds that the last success took."""


def write_job_runs(lake: Lake, jobs: dict[str, JobRuns]) -> None:
    """Replace what is known of all jobs."""
    lake.write_record(_RECORD, msgspec.to_builtins(jobs))


def read_job_runs(lake: Lake) -> dict[str, JobRuns]:
    """What was written last, by job; nothing where nobody ever wrote."""
    return msgspec.convert(lake.read_record(_RECORD) or {}, dict[str, JobRuns])
