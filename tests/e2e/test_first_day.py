"""A newcomer's first day with data of their own, the very one of `examples/first-day/`: each step comes true."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "first-day" / "first_day.py"

pytestmark = pytest.mark.timeout(400)


def load() -> ModuleType:
    found = importlib.util.spec_from_file_location("first_day", SCRIPT)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


FIRST_DAY = load()


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    outcome: dict[str, str | None] = FIRST_DAY.live(tmp_path_factory.mktemp("first-day"))
    return outcome


@pytest.mark.parametrize("step", [step.__name__ for step in FIRST_DAY.STEPS])
def test_it_comes_true_that(step: str, day: dict[str, str | None]) -> None:
    assert day[step] is None, day[step]
