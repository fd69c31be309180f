"""What the documentation says in tables and addresses is what the code says."""

import re
from pathlib import Path

from typer.testing import CliRunner

from fraud_platform.cli import app
from fraud_platform.settings import Settings
from tests.unit.commands_kit import commands

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_table_of_features_is_the_catalogue() -> None:
    printed = CliRunner().invoke(app, ["features", "--markdown"]).stdout.strip()
    assert printed in (ROOT / "docs" / "features.md").read_text()


def test_every_setting_that_is_named_exists() -> None:
    known = {f"FRAUD_{name.upper()}" for name in Settings.model_fields} | {"FRAUD_SPARKOV_FILE", "FRAUD_TEST_PICTURES"}
    for page in PAGES:
        named = set(re.findall(r"FRAUD_[A-Z_]*[A-Z]", page.read_text()))
        assert named <= known, f"{page.name} names {named - known}"


def test_every_file_that_is_linked_or_named_exists() -> None:
    for page in PAGES:
        text = page.read_text()
        links = [page.parent / link for link in re.findall(r"\]\(([^)#:]+)\)", text)]
        rooms = r"`((?:fraud_platform|assets|bento|feature_repo|tests|docs|examples)/[\w./-]+\.\w+)`"
        named = [ROOT / name for name in re.findall(rooms, text)]
        for path in links + named:
            assert path.exists(), f"{page.name} names {path}"


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"`make ([a-z]+)`", page.read_text()))
        assert named <= targets, f"{page.name} names {named - targets}"


def test_every_command_is_named_on_its_page() -> None:
    text = (ROOT / "docs" / "commands.md").read_text()
    for name in commands():
        assert re.search(rf"`(?:[a-z-]+ )?{name.split()[-1]}[` ]", text), name
        assert name.split()[0] in text
