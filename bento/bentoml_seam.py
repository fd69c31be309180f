"""BentoML's inside: the places of it that this project holds on to, since BentoML's public interface has none for them.

What belongs here: every private name of BentoML and of Circus, its process manager. What does not: what is put there
(`service`, `gateway`). BentoML is pinned: `tests/unit/test_seams.py` notices another version and other signatures,
`tests/integration/test_service.py` and `test_other_users.py` that something no longer takes effect.
"""

import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from starlette.middleware import Middleware

WORKER_MODULE = "_bentoml_impl.worker.service"
"""What the command line of a worker process names, by which it is found among others."""


def answer_first(middleware: Callable[..., Any]) -> None:
    """Put an ASGI middleware in front of BentoML's own ones, in every service of this process.

    Its own ones measure what the gateway measures itself and cost a third of a decision. `Service.add_asgi_middleware`,
    which is public, would put ours behind them.
    """
    from _bentoml_impl.server.app import ServiceAppFactory

    own = ServiceAppFactory.middlewares.fget
    ServiceAppFactory.middlewares = property(lambda app: [Middleware(middleware), *own(app)])


def static_pages() -> list[str]:
    """The paths of the files that BentoML's index page asks for."""
    import bentoml._internal.server as server

    folder = Path(server.__file__).parent / "static_content"
    return [f"/static_content/{file.name}" for file in folder.iterdir()]


def shut_control() -> None:
    """Let whatever BentoML starts from now on, in this process, have no control port. Imports Circus: call it in the
    parent of the workers alone.

    BentoML gives Circus two TCP ports on loopback, by which any local user could run any command, and offers no way to
    say otherwise. It asks itself nothing by them, so they become names inside its process; `bentoml serve --reload` has
    a helper process that asks, so there they become sockets in a folder of this user's alone.
    """
    from bentoml._internal.utils import circus

    if not issubclass(circus.Arbiter, _Shut):
        vars(circus)["Arbiter"] = type("ShutArbiter", (_Shut, circus.Arbiter), {})


class _Shut:
    """Mixin before BentoML's Arbiter, which makes its own endpoints."""

    exit_stack: ExitStack
    """The Arbiter's own."""

    def __init__(self, *args: Any, **options: Any) -> None:
        folder = tempfile.mkdtemp(prefix="fraud-control-") if options.get("plugins") else None
        place = f"ipc://{folder}/" if folder else "inproc://"
        options |= {"endpoint": f"{place}control", "pubsub_endpoint": f"{place}events"}
        super().__init__(*args, **options)
        if folder:
            self.exit_stack.callback(shutil.rmtree, folder, ignore_errors=True)
