"""What the documentation says in tables and addresses is what the code says."""

import re
from pathlib import Path

from typer.testing import CliRunner

from fraud_platform.cli import app
from fraud_platform.settings import Settings
from tests.unit.commands_kit import commands

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


MADE = {"deploy/compose.digests.yaml", "deploy/secrets/redis_url"}
"""Files that a page tells how to make."""


def test_the_readme_is_read_in_one_go() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 90


def test_every_decision_is_listed_by_its_date() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = re.findall(r"\[(\d+)\]\((\S+)\) \| (\S+) \|", (folder / "README.md").read_text())
    pages = sorted(path for path in folder.glob("*.md") if path.name != "README.md")
    assert [name for _, name, _ in listed] == [path.name for path in pages]
    for (number, _, day), path in zip(listed, pages, strict=True):
        title, _, dated = path.read_text().split("\n")[:3]
        assert title.startswith(f"# {number}. ")
        assert dated.startswith(day), f"{path.name} is dated otherwise"
        assert set(re.findall(r"^\*\*(\w+)\.\*\*", path.read_text(), re.M)) == {
            "Context", "Decision", "Why", "Consequences",
        }  # fmt: skip


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
        rooms = r"`((?:fraud_platform|assets|bento|feature_repo|tests|docs|deploy|benchmarks|examples)/[\w./-]+\.\w+)`"
        named = [ROOT / name for name in re.findall(rooms, text) if name not in MADE]
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
