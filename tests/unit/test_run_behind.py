import os
import subprocess
import sys
from pathlib import Path

import pytest

from fraud_platform.run.behind import NICENESS

AUTOGROUP = Path("/proc/self/autogroup")
SAY = """
import os, pathlib
from fraud_platform.run.behind import step_behind
step_behind()
group = pathlib.Path("/proc/self/autogroup")
print(os.nice(0), *(group.read_text().split()[-1:] if group.exists() else []) or ["none"])
"""


def group() -> str:
    """The niceness of this process's session, or "none": a session older than the groups reads empty."""
    words = AUTOGROUP.read_text().split() if AUTOGROUP.exists() else []
    return words[-1] if words else "none"


def said(*, leads: bool) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", SAY], check=True, capture_output=True, text=True, start_new_session=leads
    )
    niceness, of_session = done.stdout.split()
    return niceness, of_session


@pytest.mark.skipif(
    not AUTOGROUP.exists(), reason="THIS KERNEL HAS NO AUTOGROUPS: the session's niceness is not tested"
)
def test_a_process_that_leads_its_session_puts_the_session_behind() -> None:
    ours = os.nice(0)
    assert said(leads=True) == (str(min(ours + NICENESS, 19)), str(NICENESS))


def test_one_of_a_session_puts_itself_behind_and_leaves_the_others() -> None:
    before = group()
    assert said(leads=False) == (str(min(os.nice(0) + NICENESS, 19)), before)
    assert group() == before
