"""A model file is read and held against its form before XGBoost sees it: whatever its bytes, the process lives."""

import hashlib
import json
import multiprocessing
import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import xgboost

from fraud_platform.decision.serving_model import serving_model
from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.model.bundle import Bundle, BundleError
from fraud_platform.model.calibration import UNCALIBRATED
from fraud_platform.model.model_file import ModelFileError, check_model_file
from tests.model_kit import FALLBACK

WIDTH = len(CATALOGUE.names)
MUTATIONS = 600
SECONDS = 120
TYPES = {
    **dict.fromkeys(("base_weights", "loss_changes", "split_conditions", "sum_hessian"), "d"),
    **dict.fromkeys(("left_children", "right_children", "parents", "split_indices", "categories"), "l"),
    **dict.fromkeys(("categories_nodes", "feature_segments", "sorted_idx"), "l"),
    **dict.fromkeys(("categories_segments", "categories_sizes"), "L"),
    **dict.fromkeys(("default_left", "split_type"), "U"),
}
FORMS = {"d": "f", "l": "i", "L": "q", "U": "B"}


def grown(rounds: int = 8, **parameters: Any) -> xgboost.Booster:
    random = np.random.default_rng(1)
    vectors = random.normal(size=(400, WIDTH)).astype(np.float32)
    vectors[random.random(vectors.shape) < 0.1] = np.nan
    labels = np.nan_to_num(vectors[:, 38]) + random.normal(scale=0.5, size=len(vectors)) > 0.5
    matrix = xgboost.DMatrix(vectors, labels, feature_names=list(CATALOGUE.names), nthread=1)
    return xgboost.train({"objective": "binary:logistic", "max_depth": 3, "nthread": 1, **parameters}, matrix, rounds)


@pytest.fixture(scope="module")
def booster() -> xgboost.Booster:
    return grown()


@pytest.fixture(scope="module")
def payload(booster: xgboost.Booster) -> bytes:
    return bytes(booster.save_raw("ubj"))


@pytest.fixture
def document(booster: xgboost.Booster) -> dict[str, Any]:
    return json.loads(bytes(booster.save_raw("json")))


def encoded(value: Any, name: str = "") -> bytes:
    """UBJSON as XGBoost writes it; an oracle of the reader's."""

    def length(count: int) -> bytes:
        return b"L" + struct.pack(">q", count)

    if isinstance(value, dict):
        inner = b"".join(length(len(key)) + key.encode() + encoded(each, key) for key, each in value.items())
        return b"{" + inner + b"}"
    if isinstance(value, str):
        return b"S" + length(len(value)) + value.encode()
    if name in TYPES:
        kind = TYPES[name]
        return b"[$" + kind.encode() + b"#" + length(len(value)) + struct.pack(f">{len(value)}{FORMS[kind]}", *value)
    if isinstance(value, list):
        return b"[#" + length(len(value)) + b"".join(map(encoded, value))
    return b"i" + struct.pack(">b", value) if value < 128 else b"I" + struct.pack(">h", value)


def test_the_oracle_writes_what_xgboost_writes(document: dict[str, Any], payload: bytes) -> None:
    # in XGBoost's order of keys, too
    assert encoded(document) == payload


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"max_depth": 8, "rounds": 300},
        {"tree_method": "exact", "gamma": 2, "base_score": 0.5},
        {"grow_policy": "lossguide", "max_leaves": 31, "max_depth": 0, "scale_pos_weight": 12.5},
        {"max_depth": 1, "rounds": 1},
    ],
)
def test_every_model_that_training_may_grow_passes(parameters: dict[str, Any]) -> None:
    booster = grown(**parameters)
    booster.set_attr(best_iteration="3")
    check_model_file(bytes(booster.save_raw("ubj")), WIDTH)


MODEL = ("gradient_booster", "model")
TREE = (*MODEL, "trees", 0)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ((*TREE, "left_children", 0), 10_000),
        ((*TREE, "left_children", 0), -2),
        ((*TREE, "left_children", 0), 0),
        ((*TREE, "left_children", 1), 1),
        ((*TREE, "right_children", 0), 1),
        ((*TREE, "right_children", 0), -1),
        ((*TREE, "parents", 1), 2),
        ((*TREE, "parents", 0), 0),
        ((*TREE, "split_indices", 0), WIDTH),
        ((*TREE, "split_indices", 0), -1),
        ((*TREE, "split_type", 0), 1),
        ((*TREE, "default_left", 0), 2),
        ((*TREE, "split_conditions", 0), float("nan")),
        ((*TREE, "split_conditions"), lambda v: [*v[:-1], float("inf")]),
        ((*TREE, "base_weights", 0), float("nan")),
        ((*TREE, "split_conditions"), lambda v: v[:-1]),
        ((*TREE, "parents"), lambda v: v[:-1]),
        ((*TREE, "categories"), [1]),
        ((*TREE, "categories_nodes"), [1]),
        ((*TREE, "id"), 5),
        ((*TREE, "id"), -1),
        ((*TREE, "tree_param", "num_nodes"), "999999999"),
        ((*TREE, "tree_param", "num_nodes"), "-1"),
        ((*TREE, "tree_param", "num_deleted"), "3"),
        ((*TREE, "tree_param", "num_feature"), "51"),
        ((*TREE, "tree_param", "size_leaf_vector"), "4"),
        ((*MODEL, "trees"), []),
        ((*MODEL, "trees"), lambda v: v[:-1]),
        ((*MODEL, "tree_info"), lambda v: [*v[:-1], 7]),
        ((*MODEL, "iteration_indptr"), lambda v: v[:-1]),
        ((*MODEL, "iteration_indptr"), lambda v: [*v[:-1], 99]),
        ((*MODEL, "gbtree_model_param", "num_trees"), "1"),
        ((*MODEL, "gbtree_model_param", "num_parallel_tree"), "0"),
        ((*MODEL, "cats", "enc"), [{}]),
        (("gradient_booster", "name"), "dart"),
        (("learner_model_param", "base_score"), "[0]"),
        (("learner_model_param", "base_score"), "nan"),
        (("learner_model_param", "num_feature"), "1"),
        (("learner_model_param", "num_target"), "2"),
        (("learner_model_param", "num_class"), "3"),
        (("objective", "name"), "reg:squarederror"),
        (("objective", "reg_loss_param", "scale_pos_weight"), "nan"),
        (("feature_names",), []),
        (("attributes",), {"a": {}}),
    ],
)
def test_a_claim_that_xgboost_would_believe_is_refused(
    document: dict[str, Any], path: tuple[str | int, ...], value: Any
) -> None:
    inner: Any = document["learner"]
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value(inner[path[-1]]) if callable(value) else value
    with pytest.raises(ModelFileError):
        check_model_file(encoded(document), WIDTH)


def test_a_tree_as_deep_as_a_stack_is_refused(document: dict[str, Any]) -> None:
    tree = document["learner"]["gradient_booster"]["model"]["trees"][0]
    depth = 5_000
    nodes = 2 * depth + 1
    for name in TYPES.keys() & tree.keys():
        if not name.startswith("categories"):
            tree[name] = [0] * nodes
    tree["left_children"], tree["right_children"] = [-1] * nodes, [-1] * nodes
    tree["parents"] = [2**31 - 1] * nodes
    for split in range(0, 2 * depth, 2):
        tree["left_children"][split], tree["right_children"][split] = split + 2, split + 1
        tree["parents"][split + 1] = tree["parents"][split + 2] = split
    tree["tree_param"]["num_nodes"] = str(nodes)
    with pytest.raises(ModelFileError, match="deeper than 100 steps"):
        check_model_file(encoded(document), WIDTH)


KEY = b"{L\0\0\0\0\0\0\0\1a"


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", "the end of the file"),
        (b"not a model", "no object"),
        (KEY * 1_000_000, "levels"),
        (KEY + b"[#L\0\0\0\0\0\0\0\1" * 1_000_000, "levels"),
        (KEY + b"[" * 1_000_000, "no counted list"),
        (KEY + b"[#L\x7f\xff\xff\xff\xff\xff\xff\xff", "more than the file has left"),
        (KEY + b"[#L\xff\xff\xff\xff\xff\xff\xff\xff", "more than the file has left"),
        (KEY + b"[$d#L\x40\0\0\0\0\0\0\0", "more than the file has left"),
        (KEY + b"i\1L\0\0\0\0\0\0\0\1ai\1}", "'a' a second time"),
        (b"{}", "should have the keys"),
        (b"{}}", "bytes after the end"),
    ],
    ids=range(11),
)
def test_bytes_that_are_no_model_are_refused_without_recursion(payload: bytes, message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        check_model_file(payload, WIDTH)


def mutations(payload: bytes, random: np.random.Generator) -> Iterator[bytes]:
    while True:
        content = bytearray(payload)
        for _ in range(int(random.integers(1, 4))):
            at, other = (int(each) for each in random.integers(0, len(content), 2))
            span = int(random.integers(1, 9))
            match int(random.integers(6)):
                case 0:
                    content[at] ^= 1 << int(random.integers(8))
                case 1:
                    content[at : at + span] = random.bytes(span)
                case 2:
                    del content[at : at + span]
                case 3:
                    content[at:at] = content[other : other + span]
                case 4:
                    content[at : at + span] = bytes([(0, 255, 127, 128)[int(random.integers(4))]] * span)
                case _:
                    content[at : at + span] = content[other : other + span]
        yield bytes(content)


def _serve_mutations(bundle: Bundle, seed: int, tell: Any) -> None:
    """Load, score and explain with each mutation, hash and all; tell of each before it and of how it ended."""
    random = np.random.default_rng(seed)
    vectors = random.normal(0, 100, (20, WIDTH)).astype(np.float32)
    for number, model in zip(range(MUTATIONS), mutations(bundle.model, random), strict=False):
        changed = replace(bundle, model=model, model_sha256=hashlib.sha256(model).hexdigest())
        tell.send((number, "begun"))
        try:
            changed.verify("fuzzed")
            serving = serving_model(changed)
            serving.compiled.margins(vectors)
            serving.scorer.explain(vectors[0])
        except BundleError:
            tell.send((number, "refused"))
        else:
            tell.send((number, "served"))
    tell.close()


def test_no_change_of_its_bytes_ends_the_process_or_keeps_it(payload: bytes) -> None:
    bundle = Bundle(
        model_name="fraud-detector", version=7, catalogue_hash=CATALOGUE.hash, features=CATALOGUE.names,
        medians={source: [1.5] * len(CATALOGUE.of(source)) for source in ("user", "merchant")},
        calibration=UNCALIBRATED, fallback=FALLBACK, threshold=0.7, review_threshold=0.4,
        model_sha256=hashlib.sha256(payload).hexdigest(), mlflow_run_id=None, dagster_run_id=None, data={},
        trained_at="2026-11-23T10:00:00+00:00", model=payload,
    )  # fmt: skip
    seed = 20_261_129
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=_serve_mutations, args=(bundle, seed, theirs))
    process.start()
    theirs.close()
    ended: list[str] = []
    last = (-1, "nothing")
    try:
        while ours.poll(SECONDS):
            try:
                last = ours.recv()
            except EOFError:
                break
            if last[1] != "begun":
                ended.append(last[1])
        process.join(10)
        assert process.exitcode == 0, f"mutation {last[0]} of seed {seed} ended or kept the process ({last[1]})"
    finally:
        process.kill()
    assert len(ended) == MUTATIONS
    assert ended.count("refused") > MUTATIONS / 2
    # a leaf's value or a statistic that nobody reads may change and still be a model
    assert ended.count("served") > 10
