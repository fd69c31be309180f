"""Libraries that are held on to from inside: one file each, and what it holds there is as it was when it was written.

A new version of such a library fails here first. Look at the seam, at what the library says of the change and at the
tests of behaviour that the seam names; then raise the version here too. What Feast and Dagster look like inside is
asked where they are imported anyway: `tests/integration/test_feast_store.py` and `test_run_history.py`.
"""

import ast
import importlib.metadata
import inspect
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.unit.test_architecture import ROOMS, ROOT, imports, modules


@dataclass(frozen=True)
class Seam:
    """The one file that knows the inside of a library."""

    file: str
    versions: dict[str, str]
    """Of the distributions whose inside it is."""
    inside: tuple[str, ...]
    """Modules that nobody else imports, and whatever is below them."""


SEAMS = (
    Seam(
        "bento/bentoml_seam.py",
        {"bentoml": "1.4.39", "kantoku": "0.18.3"},
        ("_bentoml_impl", "bentoml._internal", "circus"),
    ),
    Seam(
        "bento/transport.py",
        {"uvicorn": "0.54.0", "httptools": "0.9.0"},
        ("uvicorn.protocols", "httptools"),
    ),
    Seam(
        "bento/prometheus_seam.py",
        {"prometheus-client": "0.24.1"},
        ("prometheus_client.multiprocess",),
    ),
    Seam(
        "fraud_platform/online/feast_seam.py",
        {"feast": "0.67.0"},
        ("feast.infra.registry", "feast.infra.compute_engines"),
    ),
    Seam(
        "assets/dagster_seam.py",
        {"dagster": "1.13.27", "dagster-webserver": "1.13.27"},
        ("dagster._core", "dagster_webserver"),
    ),
)
EVERYWHERE = (*ROOMS, "benchmarks")


@pytest.mark.parametrize("seam", SEAMS, ids=lambda seam: seam.file)
def test_a_library_is_of_the_version_whose_inside_was_looked_at(seam: Seam) -> None:
    assert {name: importlib.metadata.version(name) for name in seam.versions} == seam.versions


@pytest.fixture(scope="module")
def imported() -> list[tuple[str, str]]:
    """Every import of the code: the file, and the module's name."""
    paths = [path for room in EVERYWHERE for path in modules(room)]
    return [(str(path.relative_to(ROOT)), name) for path in paths for name, _ in imports(path)]


@pytest.mark.parametrize("seam", SEAMS, ids=lambda seam: seam.file)
def test_nobody_but_its_seam_imports_the_inside_of_a_library(seam: Seam, imported: list[tuple[str, str]]) -> None:
    found = {file for file, name in imported if any(f"{name}.".startswith(f"{each}.") for each in seam.inside)}
    assert found == {seam.file}


def foreign_privates(path: Path) -> set[str]:
    """Private attributes of objects that a file reads and neither defines nor, as a table's column, names itself."""
    tree = ast.parse(path.read_text())
    own = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            own.add(node.value)
        elif isinstance(node, ast.keyword) and node.arg:
            own.add(node.arg)
        elif isinstance(node, ast.Name | ast.arg):
            own.add(node.id if isinstance(node, ast.Name) else node.arg)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            own.add(node.name)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("self", "cls"):
            own.add(node.attr)
    read = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    # a name in capitals is an error's code, a tuple's `_make` is documented
    return {name for name in read - own if name[0] == "_" and name[:2] != "__" and name.islower()} - {"_make"}


def test_nobody_but_a_seam_reads_what_another_object_keeps_to_itself() -> None:
    found = {str(path.relative_to(ROOT)) for room in ROOMS for path in modules(room) if foreign_privates(path)}
    assert found <= {seam.file for seam in SEAMS}
    assert "bento/prometheus_seam.py" in found, "the walk sees them"


def test_bentoml_is_as_its_seam_takes_it() -> None:
    from _bentoml_impl.server.app import ServiceAppFactory
    from bentoml._internal.utils import circus

    assert isinstance(inspect.getattr_static(ServiceAppFactory, "middlewares"), property)
    options = inspect.signature(circus.Arbiter.__mro__[1].__init__).parameters
    assert {"endpoint", "pubsub_endpoint", "plugins"} <= options.keys()
    assert "self.exit_stack" in inspect.getsource(circus.Arbiter.__init__)


def test_uvicorn_is_as_the_transport_takes_it() -> None:
    from uvicorn.config import HTTP_PROTOCOLS
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

    assert HTTP_PROTOCOLS["auto"] == "uvicorn.protocols.http.auto:AutoHTTPProtocol"
    kept = inspect.getsource(HttpToolsProtocol.__init__)
    for name in ("cycle", "expect_100_continue", "flow", "headers", "loop", "parser", "pipeline", "server",
                 "server_state", "tasks", "transport"):  # fmt: skip
        assert f"self.{name}" in kept, name
    called = {name: [*inspect.signature(getattr(HttpToolsProtocol, name)).parameters][1:] for name in (
        "connection_made", "connection_lost", "data_received", "on_message_begin", "on_headers_complete", "on_body",
        "on_message_complete", "on_response_complete", "_unset_keepalive_if_required",
    )}  # fmt: skip
    assert {name: found for name, found in called.items() if found} == {
        "connection_made": ["transport"], "connection_lost": ["exc"], "data_received": ["data"], "on_body": ["body"],
    }  # fmt: skip
    cycle = inspect.getsource(RequestResponseCycle.__init__)
    for name in ("disconnected", "keep_alive", "message_event", "response_complete"):
        assert f"self.{name}" in cycle, name


def test_prometheus_client_is_as_its_seam_takes_it() -> None:
    from prometheus_client import CollectorRegistry, Histogram

    histogram = Histogram("seen", "…", buckets=(1, 2), registry=CollectorRegistry())
    assert len(histogram._buckets) == 3, "one is the infinite one"
    assert histogram._sum.get() == 0
