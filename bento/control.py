"""BentoML's process manager, Circus, without its control port, by which any local user could run any command.

What belongs here: where Circus can be asked. What does not: which processes it manages. BentoML gives it two TCP ports
on loopback and nobody a way to say otherwise. It asks itself nothing by them, so they become names inside its process;
`bentoml serve --reload` has a helper process that asks, so there they become sockets in a folder of this user's alone.
"""

import shutil
import tempfile
from typing import Any


def shut_control() -> None:
    """Let whatever BentoML starts from now on, in this process, have no control port. Imports Circus: call it in the
    parent of the workers alone."""
    from bentoml._internal.utils import circus

    if not issubclass(circus.Arbiter, _Shut):
        # private, so BentoML is pinned and a test holds this
        circus.Arbiter = type("ShutArbiter", (_Shut, circus.Arbiter), {})


class _Shut:
    """Mixin before BentoML's Arbiter, which makes its own endpoints."""

    def __init__(self, *args: Any, **options: Any) -> None:
        folder = tempfile.mkdtemp(prefix="fraud-control-") if options.get("plugins") else None
        place = f"ipc://{folder}/" if folder else "inproc://"
        options |= {"endpoint": f"{place}control", "pubsub_endpoint": f"{place}events"}
        super().__init__(*args, **options)
        if folder:
            self.exit_stack.callback(shutil.rmtree, folder, ignore_errors=True)  # type: ignore[attr-defined]
