"""The door of `fraud-platform`, also `python -m fraud_platform.cli`: how it ends where nobody reads what it says.

What belongs here: output that is cut off, a disk that is full, Ctrl-C. What does not: commands, and errors that are
theirs.
"""

import errno
import os
import select
import sys

from fraud_platform.cli import app

CLOSED = 141
"""Exit code where whoever read the output is gone, as a shell shows it of programs that SIGPIPE ends."""
UNWRITTEN = 74
"""Exit code where the output could not be written, EX_IOERR of sysexits.h."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as Typer has it."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def main() -> None:
    """Call the command that the arguments name, and end the process with its exit code."""
    # Rich puts another file in the place of a closed pipe, so what the pipe was is kept
    outputs = [os.dup(stream.fileno()) for stream in (sys.stdout, sys.stderr) if stream is not None]
    try:
        code = _called()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except OSError as error:
        code = _cut_off(error, outputs)
    except KeyboardInterrupt:
        code = INTERRUPTED
    sys.exit(code)


def _called() -> int | str | None:
    """The exit code. Raises OSError."""
    try:
        app()
    except SystemExit as ended:
        # Typer and Rich end the program where a pipe is closed, with the code of a failure
        if isinstance(ended.__context__, BrokenPipeError):
            raise ended.__context__ from None
        return ended.code
    return 0


def _cut_off(error: OSError, outputs: list[int]) -> int:
    """The exit code after this error of writing; any other is raised again."""
    if error.errno == errno.EPIPE and any(map(_is_closed, outputs)):
        _let_go()
        return CLOSED
    if error.errno not in _FULL:
        raise error
    _let_go()
    what = error.filename or "the output"
    said = f"{what} could not be written: {error.strerror}. What the command does may be done: look before"
    try:
        print(f"{said} you call it again.", file=sys.stderr, flush=True)
    except OSError:
        # that is where stderr goes, too
        os.dup2(1, 2)
    return UNWRITTEN


def _is_closed(descriptor: int) -> bool:
    """Whether nobody reads this output any more; a connection of the command's own that breaks is another matter."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return any(state & (select.POLLERR | select.POLLHUP | select.POLLNVAL) for _, state in poll.poll(0))


def _let_go() -> None:
    """Let what is still in the buffers go nowhere: Python would try to write it once more at its end, and complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    if _is_closed(2):
        os.dup2(nowhere, 2)


if __name__ == "__main__":
    main()
