"""A bundle is verified before it scores, and releases change in one step."""

import hashlib
import json
import multiprocessing
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost
from typer.testing import CliRunner

from fraud_platform.cli import app
from fraud_platform.decision.serving_model import OtherFeaturesError, load_model, load_to_serve, recorded_values
from fraud_platform.features.catalogue import CATALOGUE, Catalogue, Feature
from fraud_platform.inference_log.record import vector_bytes
from fraud_platform.model import bundle as room
from fraud_platform.model.bundle import (
    Bundle,
    BundleError,
    NoReleaseError,
    Scorer,
    current_release,
    definitions_of,
    publish,
)
from fraud_platform.model.calibration import UNCALIBRATED
from fraud_platform.model.linear import LinearModel
from tests.integration.service_kit import small_model
from tests.model_kit import FALLBACK
from tests.record_kit import record

WIDTH = len(CATALOGUE.names)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    random = np.random.default_rng(1)
    values = random.normal(size=(400, WIDTH)).astype(np.float32)
    values[random.random(values.shape) < 0.1] = np.nan
    return values


@pytest.fixture(scope="module")
def booster(vectors: np.ndarray) -> xgboost.Booster:
    noise = np.random.default_rng(2).normal(scale=0.5, size=len(vectors))
    labels = np.nan_to_num(vectors[:, 38]) + noise > 0.5
    matrix = xgboost.DMatrix(vectors, labels, feature_names=list(CATALOGUE.names), nthread=1)
    return xgboost.train({"objective": "binary:logistic", "max_depth": 3, "nthread": 1}, matrix, 12)


@pytest.fixture
def bundle(booster: xgboost.Booster) -> Bundle:
    model = bytes(booster.save_raw("ubj"))
    return Bundle(
        model_name="fraud-detector",
        version=7,
        catalogue_hash=CATALOGUE.hash,
        features=CATALOGUE.names,
        medians={source: [None, *[1.5] * (len(CATALOGUE.of(source)) - 1)] for source in ("user", "merchant")},
        calibration=UNCALIBRATED,
        fallback=FALLBACK,
        threshold=0.7,
        review_threshold=0.4,
        model_sha256=hashlib.sha256(model).hexdigest(),
        mlflow_run_id="run",
        dagster_run_id=None,
        data={"training_set": {"sha256": "abc"}},
        trained_at="2026-11-23T10:00:00+00:00",
        model=model,
    )


@pytest.fixture
def folder(bundle: Bundle, tmp_path: Path) -> Path:
    bundle.write(tmp_path / "candidate")
    return tmp_path / "candidate"


def change(folder: Path, **fields: Any) -> None:
    """Change the document, hashes and all: what whoever may write the folder can do."""
    document = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps(document | fields))
    rehash(folder)


def rehash(folder: Path) -> None:
    names = sorted(path.name for path in folder.iterdir() if path.name in ("model.ubj", "bundle.json", "card.md"))
    sums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    (folder / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))


def test_a_bundle_comes_back_as_it_was_written(bundle: Bundle, folder: Path) -> None:
    assert Bundle.load(folder) == bundle


@pytest.mark.parametrize("catalogue_hash", sorted(CATALOGUE.alike - {CATALOGUE.hash}))
def test_a_bundle_of_an_earlier_version_of_the_values_decides_on(folder: Path, catalogue_hash: str) -> None:
    change(folder, catalogue_hash=catalogue_hash)
    assert Bundle.load(folder).catalogue_hash == catalogue_hash


def test_an_altered_model_file_is_refused(folder: Path) -> None:
    model = bytearray((folder / "model.ubj").read_bytes())
    model[len(model) // 2] ^= 1
    (folder / "model.ubj").write_bytes(model)
    with pytest.raises(BundleError, match="SHA-256"):
        Bundle.load(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"catalogue_hash": "000000000000"}, "trained on catalogue 000000000000"),
        ({"features": [*CATALOGUE.names[:-1], "shoe_size"]}, "shoe_size"),
        ({"features": list(reversed(CATALOGUE.names))}, "another order"),
        ({"features": list(CATALOGUE.names[:-1])}, "another order, or another meaning"),
        ({"features": [*CATALOGUE.names[:-1], "amount"]}, "twice"),
        ({"features": []}, "not computed here"),
        ({"medians": {"user": [1.0], "merchant": [1.0]}}, "one median for each"),
        ({"threshold": "high"}, "threshold"),
        ({"colour": "red"}, "colour"),
        ({"threshold": float("nan")}, "not JSON"),
        ({"threshold": 1e400}, "not JSON"),
        ({"threshold": 1.5}, "threshold is out of its range: 1.5"),
        ({"review_threshold": 0.9}, "review_threshold is out of its range"),
        ({"review_threshold": -0.1}, "review_threshold is out of its range"),
        ({"calibration": {"slope": -1.0, "intercept": 0.0}}, "finite positive slope"),
        ({"version": -1}, "version is out of its range"),
        ({"version": 10**12}, "version is out of its range"),
        ({"trained_at": "yesterday"}, "trained_at is out of its range"),
        ({"data": {"split": {"train": ["2026-01-02", "soon"]}}}, "data is out of its range"),
        ({"model_name": "../../../escaped"}, "model_name is out of its range"),
        ({"model_name": ""}, "model_name is out of its range"),
        ({"model_sha256": "0" * 64}, "SHA-256"),
    ],
)
def test_a_bundle_that_does_not_fit_this_code_is_refused(folder: Path, fields: dict[str, Any], message: str) -> None:
    change(folder, **fields)
    with pytest.raises(BundleError, match=message):
        Bundle.load(folder)


def test_a_median_that_no_vector_can_hold_is_refused(folder: Path) -> None:
    medians = json.loads((folder / "bundle.json").read_text())["medians"]
    medians["user"][1] = 1e39
    change(folder, medians=medians)
    with pytest.raises(BundleError, match="medians is out of its range"):
        Bundle.load(folder)


def test_lineage_that_is_nested_without_end_is_refused(folder: Path) -> None:
    nested: dict[str, Any] = {}
    for _ in range(400):
        nested = {"data": nested}
    change(folder, data=nested)
    with pytest.raises(BundleError, match="data is out of its range"):
        Bundle.load(folder)


def test_a_name_with_a_path_writes_nothing_outside_the_home(folder: Path, tmp_path: Path) -> None:
    for name in ("../../escaped", "/tmp/escaped", "a/b", ".hidden", "a\n", "x" * 65):
        change(folder, model_name=name)
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(BundleError, match="model_name"):
            publish(tmp_path / "home", folder)
        assert sorted(tmp_path.rglob("*")) == before, name


@pytest.mark.parametrize(
    "name", ["..", "../elsewhere-1", "/etc-1", "fraud-detector", "a/../b-1", "fraud-detector-1/.."]
)
def test_a_pointer_that_names_a_path_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    publish(tmp_path, folder)
    (tmp_path / "releases" / "current.json").write_text(json.dumps({"release": name}))
    with pytest.raises(BundleError, match="not the name of a release"):
        current_release(tmp_path)


@pytest.mark.parametrize("file", ["bundle.json", "model.ubj"])
def test_one_changed_byte_of_any_deciding_file_is_found(folder: Path, file: str) -> None:
    content = (folder / file).read_bytes()
    for at in np.random.default_rng(5).integers(0, len(content), 40):
        changed = bytearray(content)
        changed[at] ^= 1
        (folder / file).write_bytes(changed)
        with pytest.raises(BundleError, match=r"SHA-256 .* its SHA256SUMS says"):
            Bundle.load(folder)


def test_a_bundle_from_before_its_hashes_loads_says_so_and_can_be_sealed(
    bundle: Bundle, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    release = publish(tmp_path, folder)
    (release / "SHA256SUMS").unlink()
    assert Bundle.load(current_release(tmp_path)) == bundle
    assert "fraud-platform release seal" in caplog.text
    run = CliRunner().invoke(app, ["release", "seal"], env={"FRAUD_HOME": str(tmp_path)})
    assert (run.exit_code, run.stdout) == (0, "fraud-detector-7: sealed\n")
    caplog.clear()
    assert Bundle.load(current_release(tmp_path)) == bundle
    assert not caplog.text
    (release / "bundle.json").write_bytes((release / "bundle.json").read_bytes() + b" ")
    run = CliRunner().invoke(app, ["release", "seal"], env={"FRAUD_HOME": str(tmp_path)})
    assert run.exit_code == 1


@pytest.mark.parametrize("sums", [b"", b"nothing", b"\xff" * 100, b"0" * 64 + b"  model.ubj\n"])
def test_hashes_that_name_not_both_files_are_refused(folder: Path, sums: bytes) -> None:
    (folder / "SHA256SUMS").write_bytes(sums)
    with pytest.raises(BundleError, match="SHA256SUMS"):
        Bundle.load(folder)


def test_a_card_that_was_changed_after_its_release_is_not_shown_and_stops_no_payment(
    bundle: Bundle, folder: Path, tmp_path: Path
) -> None:
    (folder / "card.md").write_text("# the card")
    release = publish(tmp_path, folder)
    assert room.card_beside(release) == b"# the card"
    (release / "card.md").write_text("# another")
    with pytest.raises(BundleError, match=r"card\.md"):
        room.card_beside(release)
    assert Bundle.load(release) == bundle


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("bundle.json", b"[" * 1_000_000, "not JSON"),
        ("bundle.json", b'{"data": ' * 400_000, "not JSON"),
        ("bundle.json", b"[]", "not a JSON object"),
        ("bundle.json", b"\xff\xfe", "not JSON"),
        ("bundle.json", b" " * (4 * 1024**2 + 1), "larger than"),
        ("SHA256SUMS", b" " * 100_000, "larger than"),
    ],
)
def test_a_file_that_is_too_deep_or_too_large_is_refused(folder: Path, file: str, content: bytes, message: str) -> None:
    (folder / file).write_bytes(content)
    if file != "SHA256SUMS":
        rehash(folder)
    with pytest.raises(BundleError, match=message):
        Bundle.load(folder)


NASTY = (
    "NaN",
    "-Infinity",
    "1e999",
    "9" * 400,
    "-1",
    "0",
    '""',
    "null",
    "[]",
    "{}",
    "true",
    '"\\ud800"',
    '"../x"',
    "[" * 300,
)


def test_no_change_of_the_document_does_more_than_being_refused(bundle: Bundle, folder: Path) -> None:
    random = np.random.default_rng(11)
    text = (folder / "bundle.json").read_text()
    values = [found.span() for found in re.finditer(r'(?<=[:\[,])\s*("[^"]*"|-?[\d.e+-]+|null)', text)]
    ended = {"refused": 0, "taken": 0}
    for _ in range(500):
        content = bytearray(text.encode())
        if random.random() < 0.5:
            start, stop = values[int(random.integers(len(values)))]
            content[start:stop] = NASTY[int(random.integers(len(NASTY)))].encode()
        else:
            at, span = int(random.integers(len(content))), int(random.integers(1, 6))
            content[at : at + span] = random.bytes(span) if random.random() < 0.5 else b""
        (folder / "bundle.json").write_bytes(content)
        rehash(folder)
        try:
            found = Bundle.load(folder)
        except BundleError:
            ended["refused"] += 1
        else:
            ended["taken"] += 1
            assert np.isfinite([found.threshold, found.review_threshold, found.calibration.slope]).all()
            assert np.isfinite(found.fallback.score(np.zeros((1, WIDTH), np.float32))).all()
            assert found.name == room.release_folder(folder, found.name).name
    assert ended["refused"] > 300, ended


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(folder: Path) -> None:
    (folder / "model.ubj").unlink()
    os.mkfifo(folder / "model.ubj")
    with pytest.raises(BundleError, match="is no file"):
        Bundle.load(folder)


@pytest.mark.parametrize("file", ["model.ubj", "bundle.json"])
def test_a_missing_file_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(BundleError, match=file):
        Bundle.load(folder)


def test_a_file_that_is_no_model_is_refused_even_with_the_right_hash(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="no XGBoost model"):
        Scorer(replace(bundle, model=b"not a model"))


def test_a_model_of_other_features_is_refused(bundle: Bundle, vectors: np.ndarray) -> None:
    names = [*CATALOGUE.names[:-1], "shoe_size"]
    other = xgboost.train({"nthread": 1}, xgboost.DMatrix(vectors, vectors[:, 0] > 0, feature_names=names), 1)
    with pytest.raises(BundleError, match="other features"):
        Scorer(replace(bundle, model=bytes(other.save_raw("ubj"))))


def test_scores_are_those_of_the_trained_booster(bundle: Bundle, booster: xgboost.Booster, vectors: np.ndarray) -> None:
    expected = booster.predict(xgboost.DMatrix(vectors, feature_names=list(CATALOGUE.names)))
    scores = Scorer(bundle).score(vectors)
    assert scores.dtype == np.float64
    # XGBoost takes the sigmoid in float32
    np.testing.assert_allclose(scores, expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(
        Scorer(bundle).margins(vectors), booster.inplace_predict(vectors, predict_type="margin")
    )
    assert np.unique(scores).size > 50


@pytest.mark.parametrize("wrong", [np.zeros((3, WIDTH)), np.zeros((3, 49), np.float32), np.zeros(WIDTH, np.float32)])
def test_another_shape_or_dtype_is_not_scored(bundle: Bundle, wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="float32"):
        Scorer(bundle).score(wrong)


def test_contributions_sum_to_the_margin_and_the_margin_to_the_score(bundle: Bundle, vectors: np.ndarray) -> None:
    scorer = Scorer(bundle)
    largest = []
    for vector in vectors[:20]:
        explanation = scorer.explain(vector)
        assert explanation.contributions.shape == (WIDTH,)
        assert explanation.base_value + explanation.contributions.sum() == pytest.approx(explanation.margin, abs=1e-5)
        assert 1 / (1 + np.exp(-explanation.margin)) == pytest.approx(explanation.score, abs=1e-6)
        assert explanation.score == scorer.score(vector[None, :])[0]
        largest.append(int(np.argmax(np.abs(explanation.contributions))))
    # the labels were made of feature 38
    assert np.bincount(largest).argmax() == 38


def test_logistic_regression_explains_itself_by_the_terms_of_its_sum(vectors: np.ndarray) -> None:
    random = np.random.default_rng(3)
    width = len(CATALOGUE.names)
    fill, weights, null_weights = (tuple(random.normal(size=width).tolist()) for _ in range(3))
    linear = LinearModel(fill=fill, weights=weights, null_weights=null_weights, intercept=-1.5)
    explained = 0
    for vector in vectors[:50]:
        found = linear.explain(vector)
        assert found.score == pytest.approx(float(linear.score(vector[None, :])[0]))
        assert found.base_value + found.contributions.sum() == pytest.approx(found.margin)
        assert 1 / (1 + np.exp(-found.margin)) == pytest.approx(found.score)
        for index in np.flatnonzero(np.isnan(vector)):
            assert found.contributions[index] == null_weights[index]
            explained += 1
    assert explained
    # a value that is the one nulls count as adds nothing
    ordinary = np.array([np.sign(f) * np.expm1(abs(f)) for f in fill], np.float32)
    assert np.abs(linear.explain(ordinary).contributions).max() < 1e-5


def test_without_a_release_the_error_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(NoReleaseError, match="make run"):
        current_release(tmp_path)


def test_a_bundle_of_a_version_before_is_released_byte_for_byte(bundle: Bundle, tmp_path: Path) -> None:
    made = tmp_path / "made"
    bundle.write(made)
    document = json.loads((made / "bundle.json").read_bytes())
    # before there were kinds, and sums
    del document["kind"]
    (made / "bundle.json").write_text(json.dumps(document))
    (made / "SHA256SUMS").unlink()
    release = publish(tmp_path, made)
    assert Bundle.load(release) == bundle
    for name in ("bundle.json", "model.ubj"):
        assert (release / name).read_bytes() == (made / name).read_bytes()
    assert (release / "SHA256SUMS").exists()


def test_publishing_puts_the_bundle_in_force_and_may_be_repeated(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert publish(home, folder) == publish(home, folder) == current_release(home)
    assert Bundle.load(current_release(home)) == bundle
    assert current_release(home).name == "fraud-detector-7"
    assert [path.name for path in (home / "releases").iterdir() if path.is_dir()] == ["fraud-detector-7"]


def test_an_older_release_can_come_back_into_force(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    replace(bundle, version=8).write(tmp_path / "next")
    publish(tmp_path, folder)
    publish(tmp_path, tmp_path / "next")
    assert current_release(tmp_path).name == "fraud-detector-8"
    publish(tmp_path, folder)
    assert current_release(tmp_path).name == "fraud-detector-7"


def test_a_release_is_never_rewritten(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    publish(tmp_path, folder)
    replace(bundle, threshold=0.9).write(tmp_path / "other")
    with pytest.raises(BundleError, match="never overwritten"):
        publish(tmp_path, tmp_path / "other")
    assert Bundle.load(current_release(tmp_path)) == bundle


def test_a_bundle_without_a_version_is_not_released(bundle: Bundle, tmp_path: Path) -> None:
    replace(bundle, version=0).write(tmp_path / "raw")
    with pytest.raises(BundleError, match="register"):
        publish(tmp_path, tmp_path / "raw")


def test_a_pointer_to_nothing_is_an_error_of_its_own(folder: Path, tmp_path: Path) -> None:
    publish(tmp_path, folder).rename(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="fraud-detector-7"):
        current_release(tmp_path)


def _die_at(step: int, home: Path, folder: Path) -> None:
    """Publish, and end the process before the `step`-th change of the file system."""
    calls = {"left": step}

    def deadly(method: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls["left"] -= 1
            if calls["left"] < 0:
                os._exit(9)
            return method(*args, **kwargs)

        return call

    room._write_durably = deadly(room._write_durably)
    Path.rename = deadly(Path.rename)  # type: ignore[method-assign]
    Path.replace = deadly(Path.replace)  # type: ignore[method-assign]
    publish(home, folder)


def test_killed_at_any_step_the_old_release_or_the_new_one_is_in_force(
    bundle: Bundle, folder: Path, tmp_path: Path
) -> None:
    replace(bundle, version=8).write(tmp_path / "next")
    publish(tmp_path, folder)
    context = multiprocessing.get_context("fork")
    codes, seen = [], []
    for step in range(6):
        process = context.Process(target=_die_at, args=(step, tmp_path, tmp_path / "next"))
        process.start()
        process.join()
        codes.append(process.exitcode)
        seen.append(Bundle.load(current_release(tmp_path)).version)
    assert codes[0] == 9
    assert codes[-1] == 0
    assert seen == sorted(seen)
    assert set(seen) == {7, 8}
    publish(tmp_path, tmp_path / "next")
    assert not list((tmp_path / "releases").glob(".*.tmp"))


SEVEN_DAYS = replace(CATALOGUE.features[11], name="user_merchants_7d", window="7d")
OF_FEWER = tuple(reversed(CATALOGUE.names[3:40]))
"""Some of the features, in another order."""


@pytest.fixture(scope="module")
def of_fewer(vectors: np.ndarray) -> tuple[Bundle, xgboost.Booster]:
    """A model on OF_FEWER as another version of the platform would train it, and its booster."""
    columns = [CATALOGUE.position[name] for name in OF_FEWER]
    own = np.ascontiguousarray(vectors[:, columns])
    labels = np.nan_to_num(own[:, 1]) > 0.2
    matrix = xgboost.DMatrix(own, labels, feature_names=list(OF_FEWER), nthread=1)
    booster = xgboost.train({"objective": "binary:logistic", "max_depth": 3, "nthread": 1}, matrix, 12)
    model = bytes(booster.save_raw("ubj"))
    width = len(OF_FEWER)
    medians = {
        entity: [float(n) for n in range(len({f.name for f in CATALOGUE.of(entity)} & set(OF_FEWER)))]
        for entity in ("user", "merchant")
    }
    return Bundle(
        model_name="fraud-detector", version=8, catalogue_hash=CATALOGUE.hash_of(OF_FEWER), features=OF_FEWER,
        medians=medians, calibration=UNCALIBRATED,
        fallback=LinearModel(
            fill=tuple(n / 7 for n in range(width)), weights=tuple(n / 9 for n in range(width)),
            null_weights=(0.5,) * width, intercept=-1.0,
        ),
        threshold=0.7, review_threshold=0.4, model_sha256=hashlib.sha256(model).hexdigest(), mlflow_run_id=None,
        dagster_run_id=None, data={}, trained_at="2026-11-23T10:00:00+00:00", model=model,
    ), booster  # fmt: skip


def test_a_bundle_selects_its_columns_by_name(
    of_fewer: tuple[Bundle, xgboost.Booster], vectors: np.ndarray, tmp_path: Path
) -> None:
    bundle, booster = of_fewer
    bundle.write(tmp_path / "candidate")
    model = load_model(tmp_path / "candidate")
    columns = [CATALOGUE.position[name] for name in OF_FEWER]
    own = np.ascontiguousarray(vectors[:, columns])
    expected = booster.inplace_predict(own, predict_type="margin")
    np.testing.assert_allclose(model.compiled.margins(vectors), expected, atol=1e-5)
    np.testing.assert_array_equal(model.scorer.margins(vectors), expected)
    np.testing.assert_array_equal(model.fallback.score(vectors), bundle.fallback.score(own))

    shap = booster.predict(xgboost.DMatrix(own[:1], feature_names=list(OF_FEWER)), pred_contribs=True)[0]
    told = model.scorer.explain(vectors[0])
    assert told.base_value == pytest.approx(shap[-1])
    by_name = dict(zip(CATALOGUE.names, told.contributions.tolist(), strict=True))
    assert [by_name[name] for name in OF_FEWER] == pytest.approx(shap[:-1].tolist())
    assert all(by_name[name] == 0 for name in set(CATALOGUE.names) - set(OF_FEWER))
    linear = model.rung("logistic_regression").explain(vectors[0])
    assert linear.contributions.sum() + linear.base_value == pytest.approx(linear.margin)
    assert len(linear.contributions) == len(CATALOGUE.names)

    users = [feature.name for feature in CATALOGUE.of("user")]
    batch = [name for name in OF_FEWER if name in users]
    wanted = [dict(zip(batch, bundle.medians["user"], strict=True)).get(name, np.nan) for name in users]
    np.testing.assert_array_equal(model.medians["user"], np.array(wanted, np.float32))
    with pytest.raises(ValueError, match="vectors must be"):
        model.compiled.margins(own)


def test_a_bundle_is_refused_where_a_feature_means_something_else(
    of_fewer: tuple[Bundle, xgboost.Booster], tmp_path: Path
) -> None:
    of_fewer[0].write(tmp_path)
    for name, refused in (("user_amount_avg_7d", True), ("day_of_week", False)):
        other = Catalogue(tuple(replace(one, operand="fee") if one.name == name else one for one in CATALOGUE.features))
        if refused:
            with pytest.raises(BundleError, match="another meaning"):
                Bundle.load(tmp_path, other)
        else:
            assert Bundle.load(tmp_path, other).features == OF_FEWER


def test_a_model_of_fifty_serves_on_the_vectors_of_a_larger_set(
    folder: Path, bundle: Bundle, vectors: np.ndarray
) -> None:
    wide = np.insert(vectors, 17, np.float32(77_777), axis=1)
    beside, alone = load_model(folder, LARGER), load_model(folder)
    np.testing.assert_array_equal(beside.compiled.margins(wide), alone.compiled.margins(vectors))
    np.testing.assert_array_equal(beside.fallback.score(wide), alone.fallback.score(vectors))
    assert [beside.probability(row) for row in wide[:20]] == [alone.probability(row) for row in vectors[:20]]
    assert np.isnan(beside.medians["user"][17])
    with pytest.raises(BundleError, match=r"not computed here \(\['amount'\]\)"):
        Bundle.load(folder, Catalogue(tuple(one for one in CATALOGUE.features if one.name != "amount")))


LARGER = Catalogue((*CATALOGUE.of("user"), SEVEN_DAYS, *CATALOGUE.features[17:]))


def test_a_bundle_states_its_set_and_is_served_where_another_is_computed(tmp_path: Path) -> None:
    _, made = small_model(version=3, seed=3, deciding=SEVEN_DAYS.name, catalogue=LARGER)
    made.write(tmp_path)
    bundle = Bundle.load(tmp_path)
    assert bundle == made
    assert bundle.set_of() == LARGER
    model = load_to_serve(tmp_path)
    assert (model.set_hash, model.builder.catalogue, model.served.catalogue) == (LARGER.hash, LARGER, LARGER)
    assert model.probability(np.full(51, 30, np.float32)) == load_model(tmp_path, LARGER).probability(
        np.full(51, 30, np.float32)
    )
    with pytest.raises(BundleError, match=rf"not computed here \(\['{SEVEN_DAYS.name}'\]\)"):
        load_model(tmp_path)


def test_a_bundle_of_the_first_fifty_is_written_as_before(folder: Path, bundle: Bundle) -> None:
    assert definitions_of(CATALOGUE) is None
    assert "definitions" not in json.loads((folder / "bundle.json").read_text())
    assert bundle.set_of() is CATALOGUE
    assert bundle.set_of(LARGER).hash == CATALOGUE.hash
    assert load_to_serve(folder, LARGER).set_hash == CATALOGUE.hash


def test_a_model_of_features_that_make_no_vector_sees_its_columns_of_the_set_that_is_computed(
    of_fewer: tuple[Bundle, xgboost.Booster],
) -> None:
    assert of_fewer[0].set_of() is CATALOGUE
    assert of_fewer[0].set_of(LARGER) is LARGER


@pytest.mark.parametrize(
    ("definitions", "message"),
    [
        (LARGER.features[:-1], "compiled"),
        (LARGER.features[1:], "not computed here"),
        (tuple(one for one in LARGER.features if one.name != "user_amount_avg_30d"), "features that are missing"),
        (LARGER.features[::-1], "blocks in the order"),
        ((*LARGER.features, LARGER.features[-1]), "blocks in the order"),
        (CATALOGUE.features, "not computed here"),
        ((*LARGER.features[:17], replace(SEVEN_DAYS, window="14d"), *LARGER.features[18:]), "another meaning"),
        (tuple(replace(one, operand="fee") if one.name == "amount" else one for one in LARGER.features), "compiled"),
    ],
)  # fmt: skip
def test_a_stated_set_that_is_not_the_model_s_or_not_served_here_is_refused(
    tmp_path: Path, definitions: tuple[Feature, ...], message: str
) -> None:
    _, made = small_model(version=3, seed=3, deciding=SEVEN_DAYS.name, catalogue=LARGER)
    replace(made, definitions=definitions).write(tmp_path)
    with pytest.raises(BundleError, match=message):
        Bundle.load(tmp_path)


@pytest.mark.parametrize("damage", [{"source": "elsewhere"}, {"inputs": 7}, {"delay_days": "two"}, {"name": None}])
def test_a_damaged_definition_is_refused(tmp_path: Path, damage: dict[str, Any]) -> None:
    _, made = small_model(version=3, seed=3, deciding=SEVEN_DAYS.name, catalogue=LARGER)
    made.write(tmp_path)
    stated = json.loads((tmp_path / "bundle.json").read_text())["definitions"]
    stated[17] |= damage
    change(tmp_path, definitions=stated)
    with pytest.raises(BundleError, match="definitions"):
        Bundle.load(tmp_path)


def test_a_vector_from_before_the_set_grew_is_read_by_the_features_of_its_model(vectors: np.ndarray) -> None:
    then = record(catalogue_hash=CATALOGUE.hash, vector=vector_bytes(vectors[0]))
    given = recorded_values(then, CATALOGUE.names, LARGER)
    assert np.isnan(given[17])
    np.testing.assert_array_equal(np.delete(given, 17), vectors[0])
    np.testing.assert_array_equal(recorded_values(then, CATALOGUE.names), vectors[0])
    now = record(catalogue_hash=LARGER.hash, vector=vector_bytes(np.insert(vectors[0], 17, np.float32(3))))
    assert recorded_values(now, CATALOGUE.names, LARGER)[17] == 3
    for unknown, features, catalogue in (
        (now, CATALOGUE.names, CATALOGUE),
        (now, LARGER.names, CATALOGUE),
        (then, CATALOGUE.names[::-1], LARGER),
        (record(catalogue_hash="0123456789ab", vector=then.vector), CATALOGUE.names, CATALOGUE),
        (record(catalogue_hash=CATALOGUE.hash, vector=now.vector), CATALOGUE.names, CATALOGUE),
        (record(catalogue_hash=LARGER.hash, vector=then.vector), CATALOGUE.names, LARGER),
    ):
        with pytest.raises(OtherFeaturesError, match="the vector is of catalogue"):
            recorded_values(unknown, features, catalogue)
