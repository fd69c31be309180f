"""Dagster loads its code again when the set of features on disk is another: the real code server and webserver of
`up`, on a copy of the checkout whose catalogue changes. What was materialized stays listed, and a run that is under way
ends as it began."""

import shutil
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import pytest

from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.run import child, servers
from fraud_platform.run.home import Home, open_home
from fraud_platform.run.set_on_disk import DEFINED_IN, SetOnDisk
from fraud_platform.settings import Settings
from tests.conftest import free_port

ROOT = Path(__file__).parents[2]
FIRST_DAY, BUILT = date(2026, 1, 1), "2026-01-02"
# a run is started at once, not by way of a queue that a daemon empties
INSTANCE = """
telemetry: {enabled: false}
run_coordinator: {module: dagster._core.run_coordinator, class: DefaultRunCoordinator}
"""
RESTING = """

import pathlib, time

@dg.op
def rest() -> None:
    while not (pathlib.Path(_settings.home) / "wake").exists():
        time.sleep(0.1)

@dg.job
def resting() -> None:
    rest()

defs = dg.Definitions.merge(defs, dg.Definitions(jobs=[resting]))
"""
FIFTIETH = '        _user("merchants", "30d"'
ONE_MORE = (
    '        _user("merchants", "7d", "merchants", "zero", "Distinct merchants that the user paid in 7 days."),\n'
)
ASSET = """
query { assetOrError(assetKey: {path: ["user_features"]}) { ... on Asset {
  assetMaterializations { partition } definition { opVersion partitionKeys }
} } }
"""
LAUNCH = """
mutation { launchRun(executionParams: {mode: "default", selector: {
  repositoryLocationName: "fraud_platform", repositoryName: "__repository__", jobName: "resting"}}) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
} }
"""
RUN = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"

pytestmark = pytest.mark.timeout(420)


@dataclass
class Dagster:
    """The two servers at work."""

    url: str
    project: Path
    home: Home

    def ask(self, query: str, **variables: str) -> dict[str, Any]:
        answer = httpx.post(f"{self.url}/graphql", json={"query": query, "variables": variables}, timeout=60)
        data: dict[str, Any] = answer.json()["data"]
        return data

    def asset(self) -> dict[str, Any]:
        found: dict[str, Any] = self.ask(ASSET)["assetOrError"]
        return found

    def set_catalogue(self, change: Callable[[str], str]) -> None:
        path = self.project / DEFINED_IN
        path.write_text(change((ROOT / DEFINED_IN).read_text()))


def until(condition: Callable[[], object], what: Callable[[], object], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.2)


@pytest.fixture(scope="module")
def dagster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dagster]:
    project = tmp_path_factory.mktemp("checkout")
    for room in ("fraud_platform", "assets", "feature_repo"):
        shutil.copytree(ROOT / room, project / room, ignore=shutil.ignore_patterns("__pycache__"))
    with (project / "assets" / "definitions.py").open("a") as file:
        file.write(RESTING)
    settings = Settings(
        home=tmp_path_factory.mktemp("reload") / "home", dagster_port=free_port(), history_start=FIRST_DAY
    )
    home = open_home(settings)
    home.dagster.mkdir(parents=True)
    (home.dagster / "dagster.yaml").write_text(INSTANCE)
    home.prepare()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(project))
        patch.setenv("DAGSTER_HOME", str(home.dagster))
        for module in (servers, child):
            patch.setattr(module, "PROJECT", project)
        with dg.DagsterInstance.get() as instance:
            instance.report_runless_asset_event(dg.AssetMaterialization("user_features", partition=BUILT))
        started = [servers.servers(settings, home)[name] for name in (servers.CODE, servers.DAGSTER)]
        try:
            for server in started:
                server.start()
            with httpx.Client() as client:
                until(lambda: all(server.ready(client) for server in started), started[1].child.tail)
            found = Dagster(str(started[1].url), project, home)
            until(lambda: found.asset().get("definition"), lambda: started[0].child.tail())
            yield found
        finally:
            child.stop_all([server.child for server in started])


def test_nobody_else_may_ask_the_servers(dagster: Dagster) -> None:
    outer = child.recorded_process(child.pid_file(dagster.home, servers.CODE))
    assert outer is not None
    commands = [each.cmdline() for each in (outer, *outer.children(recursive=True))]
    sockets = {Path(words[words.index("--socket") + 1]) for words in commands if "--socket" in words}
    assert len(sockets) == 2
    for path in sockets:
        assert stat.S_ISSOCK(path.stat().st_mode)
        assert path.stat().st_mode & 0o077 == 0 or path.parent.stat().st_mode & 0o077 == 0, path


def test_a_changed_set_is_loaded_and_what_was_materialized_stays_listed(dagster: Dagster) -> None:
    before = dagster.asset()
    assert before["definition"]["opVersion"] == CATALOGUE.hash
    assert [each["partition"] for each in before["assetMaterializations"]] == [BUILT]
    run = dagster.ask(LAUNCH)["launchRun"]["run"]["runId"]

    def status() -> str:
        return str(dagster.ask(RUN, id=run)["runOrError"]["status"])

    until(lambda: status() == "STARTED", status)

    said: list[str] = []
    watch = SetOnDisk(dagster.url, said.append, project=dagster.project)
    watch.look()
    assert (watch.loaded, said) == (CATALOGUE.hash, []), "nothing has changed"
    dagster.set_catalogue(lambda text: text.replace(FIFTIETH, ONE_MORE + FIFTIETH, 1))
    until(lambda: watch.look() or watch.loaded != CATALOGUE.hash, lambda: said)

    after = dagster.asset()
    assert after["definition"]["opVersion"] == watch.loaded
    assert after["assetMaterializations"] == before["assetMaterializations"]
    assert after["definition"]["partitionKeys"] == before["definition"]["partitionKeys"]
    assert said == [
        f"Dagster has loaded the set {watch.loaded} in place of {CATALOGUE.hash}. The service goes on with the set "
        "that it began with until it is started again."
    ]
    assert status() == "STARTED"
    (dagster.home.root / "wake").touch()
    until(lambda: status() == "SUCCESS", status)


def test_a_set_that_cannot_be_read_leaves_the_one_that_is_loaded(dagster: Dagster) -> None:
    loaded = dagster.asset()["definition"]["opVersion"]
    said: list[str] = []
    watch = SetOnDisk(dagster.url, said.append, loaded=loaded, project=dagster.project)
    dagster.set_catalogue(lambda text: text + "\n)")
    for _ in range(3):
        watch.look()
    assert said == [f"{DEFINED_IN} defines no set: SyntaxError: unmatched ')'. Dagster goes on with the set {loaded}."]
    assert watch.loaded == loaded
    assert dagster.asset()["definition"]["opVersion"] == loaded


def test_a_dagster_that_does_not_answer_is_asked_again_later(tmp_path: Path) -> None:
    features = (tmp_path / DEFINED_IN).parent
    features.mkdir(parents=True)
    for package in (features, features.parent):
        (package / "__init__.py").touch()
    (tmp_path / DEFINED_IN).write_text("class CATALOGUE: hash = 'another'")
    said: list[str] = []
    watch = SetOnDisk(f"http://127.0.0.1:{free_port()}", said.append, project=tmp_path)
    until(lambda: watch.look() or said, lambda: said)
    for _ in range(3):
        watch.look()
    assert len(said) == 1
    assert said[0].startswith("Dagster has not loaded the set another: it does not answer as it should (ConnectError(")
    assert watch.loaded == CATALOGUE.hash
