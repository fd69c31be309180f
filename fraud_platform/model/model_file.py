"""XGBoost's `model.ubj` as bytes that nobody vouches for, held against the form that XGBoost writes.

What belongs here: every claim of a boosted forest that reading or walking it relies on. What does not: reading UBJSON
(`ubjson`), hashes (`bundle`), scoring (`forest`). XGBoost's own reader trusts its input: a deeply nested file
overflows its stack, a child that points outside its tree reads foreign memory, a cycle never ends. So nothing reaches
it that was not read here first.
"""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fraud_platform.model.ubjson import ModelFileError, check_keys, read_document

_MAX_STEPS = 100
"""From a tree's root to a leaf; XGBoost explains a payment by recursion over them."""

Shape = Callable[[Any], bool]


def check_model_file(payload: bytes, width: int) -> None:
    """Pass a boosted forest of `width` features with one output in log-odds. Raises ModelFileError."""
    document = read_document(payload)
    check_keys(document, "", {"learner", "version"})
    _is(document["version"], _list_of(_is_int, 3), "version")
    learner = document["learner"]
    check_keys(
        learner, "learner",
        {"attributes", "feature_names", "feature_types", "gradient_booster", "learner_model_param", "objective"},
    )  # fmt: skip
    attributes = learner["attributes"]
    _is(attributes, lambda v: isinstance(v, dict) and all(isinstance(each, str) for each in v.values()), "attributes")
    _is(learner["feature_names"], _list_of(_is_text, width), "feature_names")
    _is(learner["feature_types"], lambda v: v == [] or _list_of(_is_text, width)(v), "feature_types")
    _check_parameters(learner, width)
    booster = learner["gradient_booster"]
    check_keys(booster, "gradient_booster", {"model", "name"})
    _is(booster["name"], lambda v: v == "gbtree", "gradient_booster.name")
    _check_trees(booster["model"], width)


def _check_parameters(learner: dict[str, Any], width: int) -> None:
    known = learner["learner_model_param"]
    check_keys(
        known, "learner_model_param", {"base_score", "boost_from_average", "num_class", "num_feature", "num_target"}
    )
    _is(known["base_score"], lambda v: _is_text(v) and 0 < _float(v.strip("[]")) < 1, "base_score")
    _is(known["boost_from_average"], lambda v: v in ("0", "1"), "boost_from_average")
    for name, value in (("num_class", 0), ("num_feature", width), ("num_target", 1)):
        _is(known[name], str(value).__eq__, name)
    objective = learner["objective"]
    check_keys(objective, "objective", {"name", "reg_loss_param"})
    _is(objective["name"], lambda v: v == "binary:logistic", "objective.name")
    check_keys(objective["reg_loss_param"], "reg_loss_param", {"scale_pos_weight"})
    weight = objective["reg_loss_param"]["scale_pos_weight"]
    _is(weight, lambda v: _is_text(v) and 0 < _float(v) < np.inf, "scale_pos_weight")


def _check_trees(model: Any, width: int) -> None:
    check_keys(model, "model", {"cats", "gbtree_model_param", "iteration_indptr", "tree_info", "trees"})
    check_keys(model["cats"], "cats", {"enc", "feature_segments", "sorted_idx"})
    for name, value in model["cats"].items():
        _is(value, lambda v: isinstance(v, list | np.ndarray) and len(v) == 0, f"cats.{name}")
    trees = model["trees"]
    _is(trees, lambda v: isinstance(v, list) and len(v) > 0, "trees")
    counted = model["gbtree_model_param"]
    check_keys(counted, "gbtree_model_param", {"num_parallel_tree", "num_trees"})
    _is(counted["num_trees"], lambda v: v == str(len(trees)), "num_trees")
    _is(counted["num_parallel_tree"], lambda v: v == "1", "num_parallel_tree")
    _is(model["tree_info"], lambda v: _is_list(v, [0] * len(trees)), "tree_info")
    _is(model["iteration_indptr"], lambda v: _is_list(v, list(range(len(trees) + 1))), "iteration_indptr")
    for number, tree in enumerate(trees):
        _check_tree(tree, number, width)


_PER_NODE = {
    "base_weights": "f4", "default_left": "u1", "left_children": "i4", "loss_changes": "f4", "parents": "i4",
    "right_children": "i4", "split_conditions": "f4", "split_indices": "i4", "split_type": "u1", "sum_hessian": "f4",
}  # fmt: skip
_CATEGORIES = {"categories": "i4", "categories_nodes": "i4", "categories_segments": "i8", "categories_sizes": "i8"}
_TREE_PARAMETERS = {"num_deleted", "num_feature", "num_nodes", "size_leaf_vector"}
_NO_PARENT = 2**31 - 1


def _check_tree(tree: Any, number: int, width: int) -> None:
    where = f"trees[{number}]"
    check_keys(tree, where, {*_PER_NODE, *_CATEGORIES, "id", "tree_param"})
    _is(tree["id"], lambda v: _is_int(v) and v == number, f"{where}.id")
    parameters = tree["tree_param"]
    check_keys(parameters, f"{where}.tree_param", _TREE_PARAMETERS)
    for name, value in parameters.items():
        _is(value, lambda v: _is_text(v) and re.fullmatch(r"\d{1,9}", v) is not None, f"{where}.{name}")
    nodes = int(parameters["num_nodes"])
    _is(parameters["num_feature"], lambda v: int(v) == width, f"{where}.num_feature")
    _is(parameters["size_leaf_vector"], lambda v: int(v) <= 1, f"{where}.size_leaf_vector")
    _is(nodes, lambda v: v > 0, f"{where}.num_nodes")
    for names, length in ((_PER_NODE, nodes), (_CATEGORIES, 0)):
        for name, kind in names.items():
            _is(tree[name], _array(kind, length), f"{where}.{name}")
    _is(tree["split_type"], lambda v: not v.any(), f"{where}.split_type")
    _is(tree["default_left"], lambda v: bool((v <= 1).all()), f"{where}.default_left")
    for name in ("base_weights", "loss_changes", "sum_hessian"):
        _is(tree[name], lambda v: bool(np.isfinite(v).all()), f"{where}.{name}")
    _check_shape(tree, where, nodes, int(parameters["num_deleted"]))
    is_split = tree["left_children"] >= 0
    given = tree["split_indices"][is_split]
    _is(given, lambda v: bool(((v >= 0) & (v < width)).all()), f"{where}.split_indices")
    # a leaf's value stands here too; only a split may be at infinity
    conditions = tree["split_conditions"]
    sound = bool(np.isfinite(conditions[~is_split]).all()) and not np.isnan(conditions).any()
    _is(conditions, lambda _: sound, f"{where}.split_conditions")


def _check_shape(tree: dict[str, Any], where: str, nodes: int, deleted: int) -> None:
    """That the children make one tree of all nodes but the deleted ones: none is shared, and every walk ends."""
    left, right, parents = tree["left_children"], tree["right_children"], tree["parents"]
    _is((left, right), lambda _: bool(((left == -1) == (right == -1)).all()), f"{where}.right_children")
    splits = np.flatnonzero(left != -1)
    children = np.concatenate([left[splits], right[splits]])
    inside = bool(((children > 0) & (children < nodes)).all()) and len(np.unique(children)) == len(children)
    _is(children, lambda _: inside, f"{where}.left_children")
    expected = np.full(nodes, _NO_PARENT, np.int64)
    expected[left[splits]] = splits
    expected[right[splits]] = splits
    _is(parents, lambda _: bool((parents[children] == expected[children]).all()), f"{where}.parents")
    _is(parents, lambda _: int(parents[0]) == _NO_PARENT, f"{where}.parents")
    level, reached = np.zeros(1, np.int64), 0
    for _ in range(_MAX_STEPS + 1):
        reached += len(level)
        level = level[left[level] != -1]
        level = np.concatenate([left[level], right[level]]).astype(np.int64)
        if not len(level):
            break
    else:
        raise ModelFileError(f"{where} is deeper than {_MAX_STEPS} steps")
    _is(reached, lambda v: v == nodes - deleted, f"{where}.num_deleted")


def _is(value: Any, fits: Shape, where: str) -> None:
    if not fits(value):
        raise ModelFileError(f"{where} holds what XGBoost does not write for this platform")


def _is_int(value: Any) -> bool:
    return isinstance(value, int)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _list_of(kind: Shape, length: int) -> Shape:
    return lambda value: isinstance(value, list) and len(value) == length and all(map(kind, value))


def _is_list(value: Any, expected: list[int]) -> bool:
    """As a list or, where XGBoost packs it, as an array."""
    return isinstance(value, list | np.ndarray) and list(value) == expected


def _array(kind: str, length: int) -> Shape:
    def fits(value: Any) -> bool:
        if not isinstance(value, np.ndarray):
            return False
        array: NDArray[Any] = value
        return array.dtype == np.dtype(kind) and len(array) == length

    return fits


def _float(text: str) -> float:
    return float(text) if re.fullmatch(r"[-+]?\d{1,20}(\.\d{0,20})?([eE][-+]?\d{1,3})?", text) else np.nan
