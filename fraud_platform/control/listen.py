"""Listening to the control store, beside whatever decides payments: a thread, which may wait for the store, as nothing
else may.

What belongs here: when to look. What does not: what is done then (`decision.policy_control`).
"""

import threading
import uuid
from collections.abc import Callable
from time import monotonic

from fraud_platform.control.store import CHANNEL, FOLLOW_SECONDS, ControlStore

POLL_SECONDS = 0.5
"""How soon a change is seen that nobody has notified of, as behind a pool of connections."""
RETRY_SECONDS = 0.25
"""How soon a store that went away is tried again."""
TELL_SECONDS = 10.0
"""How often the same trouble is told."""
_END_SECONDS = 1.0


class Listener(threading.Thread):
    """Calls `look` at once when something changes and twice a second at least, from its own thread.

    look: gets the store; may raise ControlError, OSError or whatever it meets. note: what the worker goes by, as JSON;
    None: it tells the store nothing. failed: told of whatever went wrong, of the same every ten seconds.
    """

    def __init__(
        self,
        url: str,
        look: Callable[[ControlStore], None],
        note: Callable[[], bytes] | None,
        failed: Callable[[Exception], None],
    ) -> None:
        super().__init__(name="control", daemon=True)
        self._url = url
        self._look, self._note, self._failed = look, note, failed
        self._worker = uuid.uuid4().hex
        self._ending = threading.Event()
        self._told: str | None = None
        self._tell_at = 0.0
        self.answers = False
        """Whether the store answered when it was last asked."""

    def run(self) -> None:
        """Until `end`."""
        while not self._ending.is_set():
            try:
                with ControlStore.opened(self._url) as store:
                    self._listen(store)
            except Exception as error:  # noqa: BLE001 - the worker goes on by its copy; told, and tried again
                self._fail(error)
                self._ending.wait(RETRY_SECONDS)

    def end(self) -> None:
        """Stop, and take the worker's note away where the store answers."""
        self._ending.set()
        self.join(POLL_SECONDS + _END_SECONDS)

    def _listen(self, store: ControlStore) -> None:
        with store.answering():
            store.connection.execute(f"LISTEN {CHANNEL}")
        while not self._ending.is_set():
            with store.answering(FOLLOW_SECONDS):
                self._look(store)
                if self._note is not None:
                    store.tell(self._worker, self._note())
            self._told, self.answers = None, True
            for _ in store.connection.notifies(timeout=POLL_SECONDS, stop_after=1):
                pass
        if self._note is not None:
            with store.answering(_END_SECONDS):
                store.leave(self._worker)

    def _fail(self, error: Exception) -> None:
        self.answers = False
        said, now = f"{type(error).__name__}: {error}", monotonic()
        if said != self._told or now >= self._tell_at:
            self._told, self._tell_at = said, now + TELL_SECONDS
            self._failed(error)
