"""The arrows between the rooms, read from the source: who may import whom, also inside functions."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("fraud_platform", "assets", "bento", "feature_repo")
FEAST_DOORS = {"fraud_platform/online/feast_engine.py", "fraud_platform/online/feast_seam.py"}
"""Besides feature_repo: classes that feature_store.yaml names, which Feast itself imports."""


def modules(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every absolute module name that a file imports anywhere in it, by statement or importlib, with its line."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            yield module, node.lineno
            yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = ast.unparse(node.func)
            if called in ("importlib.import_module", "import_module", "__import__"):
                yield str(node.args[0].value), node.lineno


def offences(room: str, *forbidden: str) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in modules(room)
        for name, line in imports(path)
        if name.split(".")[0] in forbidden
    ]


def test_the_walk_sees_imports_in_functions_and_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    room = tmp_path / "room"
    room.mkdir()
    text = "def f():\n    import dagster.x\n    importlib.import_module('bentoml')\nfrom . import sibling\n"
    (room / "module.py").write_text(text)
    found = {name for name, _ in imports(room / "module.py")}
    assert {"dagster.x", "bentoml", "room.sibling"} <= found
    assert len(offences("room", "dagster", "bentoml")) == 2


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_exists_and_every_module_says_what_belongs_there(room: str) -> None:
    assert modules(room)
    silent = [
        str(path.relative_to(ROOT)) for path in modules(room) if not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []


def test_the_domain_knows_no_framework_and_nothing_that_stands_on_it() -> None:
    assert offences("fraud_platform", "dagster", "dagster_mlflow", "bentoml", "assets", "bento") == []


def test_the_service_and_the_assets_do_not_know_each_other() -> None:
    assert offences("bento", "assets", "dagster", "dagster_mlflow") == []
    assert offences("assets", "bento", "bentoml") == []


def test_the_feature_repository_stands_on_the_domain_alone() -> None:
    assert offences("feature_repo", "assets", "bento", "bentoml", "dagster") == []


def test_feast_is_imported_behind_its_doors_only() -> None:
    found = [line for room in ("fraud_platform", "assets", "bento") for line in offences(room, "feast")]
    assert [line for line in found if line.split(":")[0] not in FEAST_DOORS] == []


def test_nothing_on_the_service_s_path_imports_the_feature_repository() -> None:
    assert offences("bento", "feature_repo", "feast") == []


def test_no_module_reads_the_settings_when_the_domain_is_imported() -> None:
    eager = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in modules("fraud_platform")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None and "Settings()" in ast.unparse(node)
    ]
    assert eager == []


def test_nothing_is_unpickled() -> None:
    """A pickle runs whatever code it names: models travel as XGBoost's own format and plain numbers."""
    dangerous = ("pickle", "cloudpickle", "joblib", "dill", "shelve", "marshal")
    assert [offence for room in ROOMS for offence in offences(room, *dangerous)] == []
