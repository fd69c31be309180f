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
from selenium.common.exceptions import WebDriverException
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
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
DAY = FIRST_DAY + timedelta(days=1)
PICTURES = os.environ.get("FRAUD_TEST_PICTURES")
SECONDS = 30
INSTANCE = """
telemetry: {enabled: false}
nux: {enabled: false}
run_coordinator: {module: dagster._core.run_coordinator, class: DefaultRunCoordinator}
"""

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
        instance_folder = open_home(made).dagster
        instance_folder.mkdir(parents=True)
        # the page's button starts a run at once, not by way of a queue that a daemon empties
        (instance_folder / "dagster.yaml").write_text(INSTANCE)
        open_home(made).prepare()
        lake = open_lake(made)
        release = release_with_holdout(home, lake, rows_per_day=1_500)
        ensure_reference(lake, release, made.seed)
        _serve(lake, release, DAY)
        with dg.DagsterInstance.get() as instance:
            for made_elsewhere in ("champion_model", "inference_log"):
                instance.report_runless_asset_event(dg.AssetMaterialization(made_elsewhere))
            job = build_definitions(made, NOW).resolve_job_def("watching")
            assert job.execute_in_process(instance=instance, tags=key_range_tags([DAY])).success
        yield made


def _serve(lake: Lake, release: Path, day: date) -> None:
    served = vectors(np.random.default_rng(1), 600, shift=1.5)
    log_decisions(lake, decided(day, served, Scorer(Bundle.load(release)).score(served)))


@pytest.fixture(scope="module")
def address(settings: Settings) -> Iterator[str]:
    """A webserver on that instance; no daemon, whose sensors would start runs of their own."""
    port = free_port()
    environment = {**os.environ, **settings.environment(), "DAGSTER_HOME": str(open_home(settings).dagster)}
    command = [
        sys.executable,
        "-m",
        "assets.webserver",
        "-w",
        "workspace.yaml",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    log = (settings.home / "dagster.log").open("wb")
    server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
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
        server.terminate()
        server.wait(30)
        log.close()


class Pages:
    """A browser, and what a person does with it."""

    def __init__(self, browser: webdriver.Chrome, address: str) -> None:
        self.browser = browser
        self._address = address

    def open(self, path: str) -> None:
        self.browser.get(path if "://" in path else f"{self._address}{path}")

    def find(self, text: str, tag: str = "*") -> WebElement:
        """The first element that shows this text, once it is there."""
        found: WebElement = WebDriverWait(self.browser, SECONDS).until(
            ec.visibility_of_element_located((By.XPATH, f"//{tag}[normalize-space(text())='{text}']"))
        )
        return found

    def press(self, text: str) -> None:
        """A button, once it can be pressed: it is shown before the page knows the asset's definition."""
        self._click(f"//button[not(@disabled)][.//span[normalize-space(text())='{text}']]")

    def follow(self, asset: str) -> None:
        """A link to an asset's page."""
        before = self.browser.current_url
        self._click(f"//a[contains(@href, '/assets/{asset}')]")
        WebDriverWait(self.browser, SECONDS).until(ec.url_changes(before))

    def _click(self, path: str) -> None:
        def pressed(browser: webdriver.Chrome) -> bool:
            # as a script: a link may lie below what is shown
            browser.execute_script("arguments[0].click()", browser.find_element(By.XPATH, path))
            return True

        # what is drawn anew meanwhile is looked for again
        WebDriverWait(self.browser, SECONDS, ignored_exceptions=[WebDriverException]).until(pressed)

    def keep(self, name: str) -> None:
        """A picture of what is shown, where pictures are wanted."""
        if PICTURES:
            time.sleep(2)  # what moves into place is still moving
            Path(PICTURES).mkdir(parents=True, exist_ok=True)
            assert self.browser.save_screenshot(str(Path(PICTURES) / f"{name}.png"))


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
    shown = Pages(browser, address)
    try:
        yield shown
    finally:
        # what a test that failed was looking at
        shown.keep("last")
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
    pages.press("Materialize")
    deadline = time.monotonic() + 120
    while materialized(address, "drift_reference") == before:
        assert time.monotonic() < deadline, (settings.home / "dagster.log").read_text()[-3_000:]
        time.sleep(0.5)
    pages.open("/assets/drift_reference")
    pages.find("fraud-detector-1")
    pages.keep("asset")
    assert read_reference(open_lake(settings), "fraud-detector-1") is not None


def test_the_lineage_leads_from_drift_to_the_page_that_people_read(pages: Pages, settings: Settings) -> None:
    pages.open("/assets/feature_drift?view=lineage&lineageScope=neighbors")
    for asset in ("inference_log", "drift_reference", "feature_drift", "drift_report"):
        pages.find(asset)
    pages.keep("lineage")
    pages.open("/assets/feature_drift?view=overview")
    pages.follow("drift_report")
    pages.open(f"{pages.browser.current_url.partition('?')[0]}?view=partitions&partition={DAY}")
    (report,) = Path(open_lake(settings).root).rglob("*.html")
    assert pages.find(str(report)).is_displayed()
    pages.keep("drift-report-asset")
    pages.open(report.as_uri())
    assert DRIFTING in pages.browser.page_source
    pages.keep("drift-report")
