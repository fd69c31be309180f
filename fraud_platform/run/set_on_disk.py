"""The set of features as it stands on disk, and Dagster loading it where it is another than the one that runs there.

What belongs here: noticing a change, and asking for the reload. What does not: processes (`supervisor`), features.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.run.home import PROJECT
from fraud_platform.run.servers import LOCATION

DEFINED_IN = Path("fraud_platform") / "features" / "catalogue.py"
"""Of a checkout: what a set's hash follows."""
AGAIN_SECONDS = 10.0
_READ_SECONDS = 60.0
_RELOAD_SECONDS = 300.0
_HASH = "from fraud_platform.features.catalogue import CATALOGUE; print(CATALOGUE.hash)"
_RELOAD = """
mutation Reload($location: String!) {
  reloadRepositoryLocation(repositoryLocationName: $location) {
    __typename
    ... on WorkspaceLocationEntry { locationOrLoadError { __typename ... on PythonError { message } } }
    ... on PythonError { message }
    ... on UnauthorizedError { message }
    ... on ReloadNotSupported { message }
    ... on RepositoryLocationNotFound { message }
  }
}
"""


class ReloadError(RuntimeError):
    """Dagster did not load the code again; the message says why."""


class SetOnDisk:
    """Has Dagster load its code again when the set of features on disk is another than the one it has loaded.

    Runs that are under way end on the code that they began with, and what was materialized stays listed: assets and
    partitions keep their names. A service goes on with its own set until it is started again.
    """

    def __init__(
        self, dagster_url: str, said: Callable[[str], None], loaded: str = CATALOGUE.hash, project: Path = PROJECT
    ) -> None:
        """said: told of each reload, and of what keeps one from happening. loaded: hash of the set that Dagster has."""
        self._url, self._said, self._project = dagster_url, said, project
        self.loaded = loaded
        self._wanted = loaded
        self._seen: tuple[int, int] | None = None
        self._work: threading.Thread | None = None
        self._not_before = 0.0
        self._told = ""

    def look(self) -> None:
        """Begin a reload where one is due; call it again and again. Waits for nothing but, after a change, the hash."""
        if self._work is not None and self._work.is_alive():
            return
        self._read()
        if self._wanted != self.loaded and time.monotonic() >= self._not_before:
            self._work = threading.Thread(target=self._load, args=(self._wanted,), daemon=True)
            self._work.start()

    def _read(self) -> None:
        """The set's hash by a process of its own, where the file has changed: this one has its modules already."""
        try:
            status = (self._project / DEFINED_IN).stat()
        except OSError as error:
            self._tell(f"{DEFINED_IN} cannot be read ({error}); Dagster goes on with the set {self.loaded}.")
            return
        seen = status.st_mtime_ns, status.st_size
        if seen == self._seen:
            return
        self._seen = seen
        try:
            done = subprocess.run(
                [sys.executable, "-c", _HASH], cwd=self._project, stdin=subprocess.DEVNULL, capture_output=True,
                text=True, timeout=_READ_SECONDS, check=False, start_new_session=True,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            self._seen = None
            self._tell(f"the set of features on disk cannot be read: {error}")
            return
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no word why"])[-1]
            self._tell(f"{DEFINED_IN} defines no set: {last}. Dagster goes on with the set {self.loaded}.")
            return
        self._wanted = done.stdout.strip()

    def _load(self, wanted: str) -> None:
        try:
            reload(self._url)
        except ReloadError as error:
            self._not_before = time.monotonic() + AGAIN_SECONDS
            self._tell(f"Dagster has not loaded the set {wanted}: {error}. It is tried again.")
            return
        before, self.loaded = self.loaded, wanted
        self._tell(
            f"Dagster has loaded the set {wanted} in place of {before}. The service goes on with the set that it began "
            "with until it is started again."
        )

    def _tell(self, text: str) -> None:
        """The same is not told twice in a row."""
        if text != self._told:
            self._told = text
            self._said(text)


def reload(dagster_url: str) -> None:
    """Have Dagster load the code location again, and return when it has. Raises ReloadError."""
    body = {"query": _RELOAD, "variables": {"location": LOCATION}}
    try:
        answer = httpx.post(f"{dagster_url}/graphql", json=body, timeout=_RELOAD_SECONDS, trust_env=False)
        answer.raise_for_status()
        said = answer.json()["data"]["reloadRepositoryLocation"]
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise ReloadError(f"it does not answer as it should ({error!r})") from error
    failed = said.get("message") or (said.get("locationOrLoadError") or {}).get("message")
    if failed:
        raise ReloadError(str(failed).strip().splitlines()[0])
