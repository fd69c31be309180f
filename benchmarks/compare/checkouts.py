"""The two sides: a checkout of the base in a temporary folder, and each side's service run by its own code.

What belongs here: git, environments, processes. What does not: load, figures.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.serving.candidates import cpu_seconds

ROOT = Path(__file__).parents[2]
_INSIDE = Path(__file__).parent / "inside.py"
_LOCK = "requirements.lock"
_IDLE, _LOOK_SECONDS, _SETTLE_SECONDS = 0.06, 0.25, 15.0
"""Share of a core below which a side rests; how long one looks; how long one waits for that at most."""


class CompareError(Exception):
    """There is nothing to compare; the message says why."""


@dataclass(frozen=True)
class Checkout:
    """Code, and the Python that runs it."""

    name: str
    folder: Path
    python: Path
    commit: str
    environment: str
    """Where its packages are from, in words."""


def this_checkout() -> Checkout:
    """What stands here, with what is not committed."""
    changed = _git("status", "--porcelain", "--untracked-files=no")
    commit = _git("rev-parse", "--short=12", "HEAD") + (" with changes" if changed else "")
    return Checkout("new", ROOT, Path(sys.executable), commit, "this checkout's")


@contextmanager
def base_checkout(base: str, folder: Path) -> Iterator[Checkout]:
    """A commit's files in `folder`, which does not exist yet, and again not afterwards. Raises CompareError."""
    try:
        commit = _git("rev-parse", "--verify", "--quiet", f"{base}^{{commit}}")
    except subprocess.CalledProcessError:
        raise CompareError(f"{base!r} is no commit of this repository: give a hash, a branch or a tag") from None
    try:
        _git("worktree", "add", "--quiet", "--detach", str(folder), commit)
        if not (folder / "benchmarks/serving/bench.py").exists():
            raise CompareError(f"{base} is too old: it has no benchmarks/serving, by which it would be set up")
        if (ROOT / ".env").exists():
            # settings of one side alone would be what is compared
            shutil.copy(ROOT / ".env", folder / ".env")
        same = _pins(folder / _LOCK) == _pins(ROOT / _LOCK)
        if not same:
            print(f"{_LOCK} of {base} is another: it gets an environment of its own (a minute)", flush=True)
            subprocess.run(["make", "setup"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        python = Path(sys.executable) if same else folder / ".venv/bin/python"
        words = "this checkout's, the locks are the same" if same else "its own, from its own lock"
        yield Checkout("base", folder, python, commit[:12], words)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _git("worktree", "prune")


def _pins(lock: Path) -> list[str]:
    """The packages of a lock, without its comments, which tell who wants each."""
    return [line for line in lock.read_text().splitlines() if not line.lstrip().startswith("#")]


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip()


class Side:
    """A checkout's service with its own stores and data; it is there for as long as the context lasts."""

    def __init__(self, checkout: Checkout, folder: Path, users: int, cores: tuple[set[int], set[int]]) -> None:
        self.checkout, self.users, self.merchants = checkout, users, max(users // 40, 10)
        folder.mkdir(parents=True)
        self._log = folder / "log"
        # its code before this checkout's, which the environment knows as well
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FRAUD_")}
        # two that train at once on all cores wait for each other more than they work
        environment |= {"PYTHONPATH": str(checkout.folder), "OMP_NUM_THREADS": "1"}
        words = ["--users", self.users, "--merchants", self.merchants]
        words += ["--server-cores", *cores[0], "--load-cores", *cores[1]]
        with self._log.open("wb") as log:
            # a session of its own: Ctrl-C reaches this process alone, which then ends both sides in order
            self._process = subprocess.Popen(
                [checkout.python, "-P", str(_INSIDE), str(folder), *map(str, words)], cwd=checkout.folder,
                env=environment, text=True, start_new_session=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
        self.port, self.key, self.model, self._pid = 0, "", "", 0

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *_: object) -> None:
        known = psutil.Process(self._process.pid).children(recursive=True) if self._process.poll() is None else []
        if not self._pid:
            # it is still busy with its data
            self._process.terminate()
        try:
            self._process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
        for process in known:
            if process.is_running():
                process.kill()

    def wait(self) -> None:
        """Return when the service answers. Raises CompareError with its last words when it does not come to that."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            log = self._log.read_text()[-3000:]
            raise CompareError(f"the service of {self.checkout.name} ({self.checkout.commit}) did not start:\n{log}")
        said = json.loads(line)
        self.port, self.key, self.model, self._pid = said["port"], said["key"], said["model"], said["pid"]

    def cpu_seconds(self) -> tuple[float, float, float]:
        """Processor time so far of the service with its workers, of Redis, and of all there is of this side."""
        root = psutil.Process(self._process.pid)
        everything = {each.pid: each for each in (root, *root.children(recursive=True))}
        service = [self._pid, *(each.pid for each in everything[self._pid].children(recursive=True))]
        used = {pid: cpu_seconds(each) for pid, each in everything.items()}
        store = sum(used[pid] for pid, each in everything.items() if each.name().startswith(("redis", "valkey")))
        return sum(used[pid] for pid in service), store, sum(used.values())


def settle(sides: list[Side]) -> float:
    """Wait until all sides rest, decisions on their way to the lake among what they do; returns seconds waited."""
    began = time.monotonic()
    before = sum(side.cpu_seconds()[2] for side in sides)
    while time.monotonic() - began < _SETTLE_SECONDS:
        time.sleep(_LOOK_SECONDS)
        now = sum(side.cpu_seconds()[2] for side in sides)
        if now - before < _IDLE * _LOOK_SECONDS * len(sides):
            break
        before = now
    return time.monotonic() - began
