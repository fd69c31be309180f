"""A first day with one's own data, as it goes wrong for people: `.venv/bin/python examples/first-day/first_day.py`.

What belongs here: the day, step by step, each with what has to be true after it. What does not: how the platform does
it. A small export is drawn, looked at, built and served; labels are corrected, midnight comes with a restart, and all
that was decided is proven the night after. The exit code is 0 when every step came true. Everything is in one new
folder, and its stores are stopped at the end.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd

from fraud_platform.clock import move_clock
from fraud_platform.lake import open_lake
from fraud_platform.settings import Settings

ROOT = Path(__file__).parents[2]
CLI = [sys.executable, "-m", "fraud_platform.cli"]
TODAY = date(2026, 11, 24)
DAYS, ROWS, CUSTOMERS = 16, 3_200, 40
WAYS = ["ECOMMERCE", " online", "web", "POS", "pos", "teleport"]
ONLINE, UNKNOWN = {"ECOMMERCE", " online", "web"}, "teleport"
CORRECTED = "decided-7"
READY_SECONDS = 90


class Day:
    """One newcomer's day in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.clock = folder / "clock"
        self.export = folder / "export.parquet"
        self.rows = draw_export()
        self.rows.to_parquet(self.export)
        self.sent: dict[str, dict[str, Any]] = {}
        self.answers: dict[str, dict[str, Any]] = {}
        ports = {f"FRAUD_{name}_PORT": str(free_port()) for name in ("SERVICE", "LOG", "DAGSTER", "MLFLOW")}
        self.url = f"http://127.0.0.1:{ports['FRAUD_SERVICE_PORT']}"
        fields: dict[str, Any] = {
            "home": self.home,
            "clock_file": self.clock,
            "mapping": Path(__file__).with_name("mapping.yaml"),
            "history_goes_on": "true",
            # windows that a history of DAYS days fills
            "warmup_days": 0,
            "validation_days": 2,
            "holdout_days": 4,
            "label_maturity_days": 2,
            "min_holdout_frauds": 20,
            "search_trials": 1,
            "training_threads": 1,
        }
        bare = {name: value for name, value in os.environ.items() if not name.startswith("FRAUD_")}
        self.bare = bare | {"PYTHONPATH": str(ROOT), "DO_NOT_TRACK": "true", "BENTOML_DO_NOT_TRACK": "true"}
        self.environment = self.bare | ports | {f"FRAUD_{name.upper()}": str(value) for name, value in fields.items()}
        self.environment |= {
            "FIRST_DAY_EXPORT": str(self.export),
            "DAGSTER_HOME": str(self.home / "dagster"),
            "BENTOML_HOME": str(self.home / "bentoml"),
            "OMP_NUM_THREADS": "1",
        }
        self.settings = Settings(_env_file=None, **fields)  # type: ignore[call-arg]

    def it_is(self, day: date, clock: str) -> None:
        """Set the platform's clock, UTC."""
        move_clock(self.clock, int(pd.Timestamp(f"{day} {clock}", tz="UTC").timestamp() * 1_000_000))

    def run(self, *command: str, **given: Any) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; both streams together in stdout."""
        settings: dict[str, Any] = {"cwd": ROOT, "env": self.environment} | given
        return subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240, check=False, **settings
        )

    def must(self, *command: str) -> str:
        """Run a command that has to end well; what it printed."""
        ended = self.run(*command)
        expect(ended.returncode == 0, f"{' '.join(command[1:4])} ended with {ended.returncode}: {ended.stdout[-1500:]}")
        return ended.stdout

    @contextmanager
    def service(self) -> Iterator[None]:
        """The decision service, ready, for as long as the block; then killed, as a machine that is switched off."""
        command = [sys.executable, "-m", "bentoml", "serve", "bento.service:FraudDetector"]
        port = self.environment["FRAUD_SERVICE_PORT"]
        with (self.folder / "service.log").open("ab") as log:
            server = subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--port", port],
                cwd=ROOT, env=self.environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        try:
            wait_until(lambda: self.ready(), "the service is ready")
            yield
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(30)

    def ready(self) -> bool:
        """Whether the service decides with its store."""
        try:
            return bool(httpx.get(f"{self.url}/readyz").json()["checks"]["redis"]["ok"])
        except httpx.TransportError:
            return False

    def pay(self, number: int) -> dict[str, Any]:
        """Have a new payment decided."""
        name = f"decided-{number}"
        self.sent[name] = {
            "transaction_id": name, "user_id": f"c{number % CUSTOMERS}", "merchant_id": f"s{number % 9}",
            "amount": 10.0 + number, "currency": "EUR", "country": "DE", "channel": WAYS[number % 5],
            "device_id": f"d{number % CUSTOMERS}", "timestamp": (self.now() - timedelta(seconds=1)).isoformat(),
        }  # fmt: skip
        self.answers[name] = self.send(name)
        return self.answers[name]

    def send(self, name: str) -> dict[str, Any]:
        """Send a payment, the first time or again."""
        answer = httpx.post(f"{self.url}/v1/predict", json=self.sent[name], timeout=10)
        expect(answer.status_code == 200, f"{name} got {answer.status_code}: {answer.text[:300]}")
        told: dict[str, Any] = answer.json()
        return told

    def now(self) -> datetime:
        """The present by the platform's clock."""
        from fraud_platform.clock import present

        return present(self.settings)

    def stop(self) -> None:
        """Stop the stores."""
        self.run(*CLI, "down")


def draw_export() -> pd.DataFrame:
    """Payments of DAYS days before TODAY, with fraud by amount, abroad and online; times in nanoseconds, UTC."""
    random = np.random.default_rng(7)
    start = pd.Timestamp(TODAY, tz="UTC") - pd.Timedelta(days=DAYS)
    seconds = np.sort(random.integers(0, DAYS * 86_400, ROWS))
    paid_at = start + pd.to_timedelta(seconds * 1_000_000_000 + random.integers(0, 1_000_000_000, ROWS), unit="ns")
    way = random.choice(WAYS, ROWS)
    abroad = random.random(ROWS) < 0.1
    amount = random.lognormal(3.5, 1, ROWS)
    odds = -5.5 + 1.5 * (np.log(amount) - 3.5) + 4.0 * abroad + 2.5 * np.isin(way, list(ONLINE))
    customer = random.integers(CUSTOMERS, size=ROWS)
    return pd.DataFrame(
        {
            "id": [f"past-{number}" for number in range(ROWS)],
            "customer": [f"c{number}" for number in customer],
            "shop": [f"s{number}" for number in random.integers(9, size=ROWS)],
            "total": amount.round(2),
            "paid_at": paid_at.astype("datetime64[ns, UTC]"),
            "land": np.where(abroad, "BR", "DE"),
            "way": way,
            "device": [f"d{number}" for number in customer],
            "is_fraud": (random.random(ROWS) < 1 / (1 + np.exp(-odds))).astype(int),
        }
    )


def a_wrong_directory_is_refused(day: Day) -> None:
    """Commands that change or promise something refuse where there is no home, and leave nothing behind."""
    nowhere = day.folder / "nowhere"
    nowhere.mkdir()
    for command in (
        ["policy", "kill-switch", "rules_only", "--why", "a try"],
        ["keys", "add", "shop", "--scope", "decide"],
    ):
        ended = day.run(*CLI, *command, cwd=nowhere, env=day.bare)
        expect(ended.returncode != 0, f"{command[0]} obeyed in a directory without a home: {ended.stdout[:300]}")
        expect("Traceback" not in ended.stdout, ended.stdout[-500:])
    expect(not list(nowhere.iterdir()), f"something was made there: {list(nowhere.iterdir())}")


def a_look_names_what_no_feature_understands(day: Day) -> None:
    """`ingest --check` reads every row, takes all of them, and names the channel word that nobody knows."""
    told = day.must(*CLI, "ingest", "--check", "--mapping", str(day.settings.mapping))
    expect(f"{ROWS:,}" in told or str(ROWS) in told, f"not all rows were accepted: {told[:1500]}")
    expect(UNKNOWN in told, f"it does not name the channel {UNKNOWN}: {told[-1500:]}")


def a_file_of_which_nothing_fits_is_refused(day: Day) -> None:
    """`ingest --check` of which every row is quarantined does not end well."""
    wrong = day.folder / "wrong.parquet"
    day.rows.head(50).assign(total=-1.0).to_parquet(wrong)
    environment = day.environment | {"FIRST_DAY_EXPORT": str(wrong)}
    ended = day.run(*CLI, "ingest", "--check", "--mapping", str(day.settings.mapping), env=environment)
    expect(ended.returncode not in (0, None), "every row was quarantined and it ended with 0")
    expect("Traceback" not in ended.stdout, ended.stdout[-500:])


def it_is_built_and_says_who_decides(day: Day) -> None:
    """The build ends well with the better of two models in force, and the reason is told."""
    day.it_is(TODAY, "04:00")
    day.must(sys.executable, "-m", "assets.bootstrap")
    from fraud_platform.run.deciding import who_decides

    told = who_decides(day.settings)
    expect(told.startswith("fraud-detector-1 decides, "), told)
    expect("surely beats chance" in told, told)


def every_row_has_its_time_to_the_microsecond(day: Day) -> None:
    """Nanoseconds are cut to microseconds; no time is null, and no row is lost."""
    found = raw(day)
    expected = dict(zip(day.rows["id"], day.rows["paid_at"].dt.floor("us"), strict=True))
    expect(len(found) == ROWS, f"{len(found)} of {ROWS} rows are in the lake")
    wrong = [row["transaction_id"] for row in found if row["timestamp"] != expected[row["transaction_id"]]]
    expect(not wrong, f"{len(wrong)} times differ, for example of {wrong[:1]}")


def channel_words_mean_what_they_say(day: Day) -> None:
    """Spellings of online are online, and a word that nobody knows is null."""
    words = dict(zip(day.rows["id"], day.rows["way"], strict=True))
    found = {word: {row["channel"] for row in raw(day) if words[row["transaction_id"]] == word} for word in WAYS}
    for word in ONLINE:
        expect(found[word] == {"online"}, f"{word!r} became {found[word]}")
    expect(found["POS"] == found["pos"], f"POS and pos became {found['POS']} and {found['pos']}")
    expect(found[UNKNOWN] == {None}, f"{UNKNOWN!r} became {found[UNKNOWN]}")


def payments_are_decided_by_the_model(day: Day) -> None:
    """Before midnight: the service decides, whatever the spelling of the channel."""
    day.it_is(TODAY, "23:58")
    with day.service():
        for number in range(20):
            day.pay(number)
        label(day, "confirmed")
        answer = label(day, "cleared")
    models = {answer["served_by"]["model"] for answer in day.answers.values()}
    expect(models == {"champion"}, f"decided by {models}")
    expect(answer["standing"]["state"] == "cleared", f"the later of two labels does not count: {answer}")


def a_restart_at_midnight_changes_no_answer(day: Day) -> None:
    """After midnight and a restart: what was decided stands, and what is new is decided."""
    day.it_is(TODAY + timedelta(days=1), "00:00:05")
    with day.service():
        for name, before in list(day.answers.items())[:5]:
            again = day.send(name)
            same = all(again[part] == before[part] for part in ("decision", "score", "reason", "model_version"))
            expect(same, f"{name} was {before}, and is {again}")
        for number in range(20, 25):
            day.pay(number)


def the_night_takes_corrected_labels(day: Day) -> None:
    """Decisions reach the lake, the nightly build ends well, and the corrected label is what training will read."""
    day.it_is(TODAY + timedelta(days=1), "04:00")
    with (day.folder / "log.log").open("wb") as log:
        carrier = subprocess.Popen(
            [*CLI, "inference-log", "run"], cwd=ROOT, env=day.environment, stdout=log, stderr=log
        )
    try:
        wait_until(lambda: decided_rows(day) == len(day.answers), "every decision is in the lake")
    finally:
        carrier.terminate()
        carrier.wait(30)
    day.must(sys.executable, "-m", "assets.bootstrap")
    from fraud_platform.features.label_rules import label_rules
    from fraud_platform.model.data import labels_before

    labels = labels_before(open_lake(day.settings), TODAY + timedelta(days=1), label_rules(day.settings)).to_pylist()
    [found] = [row for row in labels if row["transaction_id"] == CORRECTED]
    expect(found["state"] == "cleared", f"training would read {found}")


def what_was_decided_is_proven(day: Day) -> None:
    """Every decision of yesterday is made again, and its day sent again, without a difference."""
    day.must(*CLI, "replay", "--decided-on", TODAY.isoformat())
    told = day.must(*CLI, "replay", "--date", TODAY.isoformat())
    expect(" 0 differences" in told, told[-800:])


STEPS: list[Callable[[Day], None]] = [
    a_wrong_directory_is_refused,
    a_look_names_what_no_feature_understands,
    a_file_of_which_nothing_fits_is_refused,
    it_is_built_and_says_who_decides,
    every_row_has_its_time_to_the_microsecond,
    channel_words_mean_what_they_say,
    payments_are_decided_by_the_model,
    a_restart_at_midnight_changes_no_answer,
    the_night_takes_corrected_labels,
    what_was_decided_is_proven,
]


def label(day: Day, state: str) -> dict[str, Any]:
    """Send a label of the payment that somebody will think better of."""
    answer = httpx.post(f"{day.url}/v1/feedback", json={"transaction_id": CORRECTED, "state": state}, timeout=10)
    expect(answer.status_code == 202, f"the label {state} got {answer.status_code}: {answer.text[:300]}")
    told: dict[str, Any] = answer.json()
    return told


def raw(day: Day) -> list[dict[str, Any]]:
    """The export's rows as the lake has them."""
    lake = open_lake(day.settings)
    columns = ["transaction_id", "timestamp", "channel"]
    return [
        row for one in lake.days("raw_transactions") for row in lake.read("raw_transactions", one, columns).to_pylist()
    ]


def decided_rows(day: Day) -> int:
    """Decisions in the lake."""
    from fraud_platform.inference_log.table import LogTable

    log = LogTable(open_lake(day.settings))
    return sum(log.read(one, ["transaction_id"]).num_rows for one in log.days())


def expect(true: bool, otherwise: str) -> None:
    """Raise AssertionError with what is the case instead."""
    if not true:
        raise AssertionError(otherwise)


def wait_until(true: Callable[[], bool], what: str) -> None:
    """Raise AssertionError when it has not come true in time."""
    deadline = time.monotonic() + READY_SECONDS
    while not true():
        expect(time.monotonic() < deadline, f"not in {READY_SECONDS} s: {what}")
        time.sleep(0.1)


def free_port() -> int:
    """A loopback port that nobody listens on at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def live(folder: Path) -> dict[str, str | None]:
    """Go through the day; of each step what was not as it should be, or None. A step that fails ends no other."""
    day = Day(folder)
    outcome: dict[str, str | None] = {}
    try:
        for step in STEPS:
            began = time.monotonic()
            try:
                step(day)
                outcome[step.__name__] = None
            except Exception as error:  # noqa: BLE001 - told at the end, with the steps after it
                outcome[step.__name__] = f"{type(error).__name__}: {error}"
            mark = "✓" if outcome[step.__name__] is None else "✗"
            seconds = time.monotonic() - began
            print(f"{mark} {step.__name__.replace('_', ' ')} ({seconds:.0f} s)", flush=True)
            if outcome[step.__name__]:
                print(f"  {outcome[step.__name__]}", flush=True)
    finally:
        day.stop()
    return outcome


if __name__ == "__main__":
    place = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="first-day-"))
    place.mkdir(parents=True, exist_ok=True)
    print(f"Everything of this day is in {place}.")
    sys.exit(any(live(place.resolve()).values()))
