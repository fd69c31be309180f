"""Work that may wait, behind payments, which may not.

What belongs here: what a process asks of Linux' scheduler. What does not: which processes wait (they call this as they
start), shares of containers (deploy).
"""

import logging
import os
from pathlib import Path

NICENESS = 15
"""Under a thirtieth of the weight of a process that decides, where both want the same core: each step is a quarter
less (sched(7)). All that no payment wants is theirs, so the log keeps up unless a machine is saturated for hours."""

_AUTOGROUP = Path("/proc/self/autogroup")

logger = logging.getLogger(__name__)


def step_behind() -> None:
    """Let this process, and whatever it starts, wait for those that decide payments.

    Linux shares a core between sessions first and then between their processes (sched(7), "The autogroup feature"), so
    a niceness alone would count against nobody but the process itself: the session's own is set too, where this process
    leads one. Where the kernel has none, the niceness does.
    """
    os.nice(NICENESS)
    if os.getsid(0) != os.getpid():
        # of a session that others lead, who share the core with this process by its niceness
        return
    try:
        _AUTOGROUP.write_text(f"{NICENESS}\n")
    except FileNotFoundError:
        logger.debug("this kernel has no groups of sessions")
    except OSError as error:
        logger.warning("the log may take processor time that payments want: %s", error)
