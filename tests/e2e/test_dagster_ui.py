"""Dagster's pages as a data scientist meets them, in a real browser: materialize an asset, follow the lineage to the
drift report, read it.

With FRAUD_TEST_PICTURES=<folder> the pages are kept as pictures, from which the documentation's come.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import httpx
import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support import expected_conditions as ec
from selenium.webdriver.support.wait import WebDriverWait

from assets.definitions import build_definitions
from assets.partitions import key_range_tags
from fraud_platform.lake import Lake, open_lake
from fraud_platform.model.bundle import Bundle, Scorer
from fraud_platform.monitoring.reference import ensure_reference, read_reference
from fraud_platform.run.home import open_home
from fraud_platform.settings import Settings
from tests.conftest import free_port
from tests.integration.test_dagster import FIRST_DAY, NOW
from tests.monitoring_kit import DRIFTING, decided, log_decisions, release_with_holdout, vectors

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
DAY = FIRST_DAY + timedelta(days=1)
SECONDS = 120

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None, reason="no browser here: Debian's chromium and chromium-driver are missing"
    ),
]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A home whose release has decided a drifted day, watched in its own Dagster instance."""
    home = tmp_path_factory.mktemp("ui")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"HOME": home, "HISTORY_START": FIRST_DAY, "DRIFT_MIN_ROWS": 500}.items():
            patch.setenv(f"FRAUD_{name}", str(value))
        patch.setenv("DAGSTER_HOME", str(open_home(Settings()).dagster))
        made = Settings()
        open_home(made).prepare()
        lake = open_lake(made)
        release = release_with_holdout(home, lake, rows_per_day=1_500)
        ensure_reference(lake, release, made.seed)
        _serve(lake, release, DAY)
        with dg.DagsterInstance.get() as instance:
            job = build_definitions(made, NOW).resolve_job_def("watching")
            assert job.execute_in_process(instance=instance, tags=key_range_tags([DAY])).success
        yield made


def _serve(lake: Lake, release: Path, day: date) -> None:
    served = vectors(np.random.default_rng(1), 600, shift=1.5)
    log_decisions(lake, decided(day, served, Scorer(Bundle.load(release)).score(served)))


@pytest.fixture(scope="module")
def address(settings: Settings) -> Iterator[str]:
    """Webserver and daemon on that instance, as `make run` starts them."""
    port = free_port()
    environment = {**os.environ, **settings.environment(), "DAGSTER_HOME": str(open_home(settings).dagster)}
    commands = (
        [str(BIN / "dagster-webserver"), "-w", "workspace.yaml", "--host", "127.0.0.1", "--port", str(port)],
        [str(BIN / "dagster-daemon"), "run", "-w", "workspace.yaml"],
    )
    log = (settings.home / "dagster.log").open("wb")
    servers = [subprocess.Popen(each, cwd=ROOT, env=environment, stdout=log, stderr=log) for each in commands]
    try:
        found = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                if httpx.get(f"{found}/server_info", trust_env=False).status_code == 200:
                    break
            except httpx.TransportError:
                assert time.monotonic() < deadline, (settings.home / "dagster.log").read_text()[-3_000:]
            time.sleep(0.2)
        yield found
    finally:
        for server in servers:
            server.terminate()
        for server in servers:
            server.wait(30)
        log.close()


class Pages:
    """A browser, and what a person does with it."""

    def __init__(self, browser: webdriver.Chrome, address: str) -> None:
        self.browser = browser
        self._address = address
        self._folder = os.environ.get("FRAUD_TEST_PICTURES")

    def open(self, path: str) -> None:
        self.browser.get(path if "://" in path else f"{self._address}{path}")

    def find(self, text: str, tag: str = "*") -> WebElement:
        """The first element that shows this text, once it is there."""
        found: WebElement = WebDriverWait(self.browser, SECONDS).until(
            ec.visibility_of_element_located((By.XPATH, f"//{tag}[normalize-space(text())='{text}']"))
        )
        return found

    def click(self, text: str, tag: str = "*") -> None:
        found = self.find(text, tag)
        self.browser.execute_script("arguments[0].click()", found)

    def keep(self, name: str) -> None:
        """A picture of what is shown, where pictures are wanted."""
        if self._folder:
            time.sleep(2)  # what moves into place is still moving
            Path(self._folder).mkdir(parents=True, exist_ok=True)
            assert self.browser.save_screenshot(str(Path(self._folder) / f"{name}.png"))


@pytest.fixture
def pages(address: str, tmp_path: Path) -> Iterator[Pages]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1600,1000",
        f"--user-data-dir={tmp_path / 'browser'}", "--no-proxy-server",
    ):  # fmt: skip
        options.add_argument(argument)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    browser.set_page_load_timeout(SECONDS)
    try:
        yield Pages(browser, address)
    finally:
        browser.quit()


def materialized(address: str, asset: str) -> list[str]:
    """Run ids of an asset's materializations, as Dagster tells its own page."""
    query = (
        "query A($key: AssetKeyInput!) "
        "{ assetOrError(assetKey: $key) { ... on Asset { assetMaterializations { runId } } } }"
    )
    body = {"query": query, "variables": {"key": {"path": [asset]}}}
    answer = httpx.post(f"{address}/graphql", json=body, trust_env=False, timeout=20).json()
    return [each["runId"] for each in answer["data"]["assetOrError"].get("assetMaterializations", [])]


def test_an_asset_is_materialized_by_its_button(pages: Pages, address: str, settings: Settings) -> None:
    before = materialized(address, "drift_reference")
    pages.open("/assets/drift_reference")
    pages.click("Materialize")
    deadline = time.monotonic() + 120
    while materialized(address, "drift_reference") == before:
        assert time.monotonic() < deadline, (settings.home / "dagster.log").read_text()[-3_000:]
        time.sleep(0.5)
    pages.open("/assets/drift_reference")
    pages.find("fraud-detector-1")
    pages.keep("asset")
    assert read_reference(open_lake(settings), "fraud-detector-1") is not None


def test_the_lineage_leads_from_the_model_to_the_page_that_people_read(pages: Pages, settings: Settings) -> None:
    pages.open("/asset-groups?asset-selection=%2A%22drift_report%22")
    for asset in ("inference_log", "champion_model", "feature_drift", "drift_report"):
        pages.find(asset)
    pages.keep("lineage-to-drift-report")
    pages.open(f"/assets/drift_report?partition={DAY}&view=partitions")
    page = next(Path(open_lake(settings).root).rglob("*.html"))
    label = pages.find(str(page))
    assert label.is_displayed()
    pages.keep("drift-report-asset")
    pages.open(page.as_uri())
    assert DRIFTING in pages.browser.page_source
    pages.keep("drift-report")
