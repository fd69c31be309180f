"""`model.ubj` as bytes that nobody vouches for: read without recursion, and held against the form that XGBoost writes.

What belongs here: UBJSON as XGBoost writes it, and every claim of a boosted forest that reading or walking it relies
on. What does not: hashes (`bundle`), scoring (`forest`). XGBoost's own reader trusts its input: a deeply nested file
overflows its stack, a child that points outside its tree reads foreign memory, a cycle never ends. So nothing reaches
it that was not read here first.
"""

import re
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_BYTES = 256 * 1024 * 1024
_MAX_DEPTH = 16
"""Of objects and lists; XGBoost writes 6."""
_MAX_STEPS = 100
"""From a tree's root to a leaf; XGBoost explains a payment by recursion over them."""
_MAX_VALUES = 20_000_000
_NUMBERS = {b"i": ">b", b"U": ">B", b"I": ">h", b"l": ">i", b"L": ">q", b"d": ">f", b"D": ">d"}
_ARRAYS = {b"U": ">u1", b"i": ">i1", b"I": ">i2", b"l": ">i4", b"L": ">i8", b"d": ">f4", b"D": ">f8"}

Shape = Callable[[Any], bool]


class ModelFileError(ValueError):
    """Bytes that are no model of this platform's kind; the message says where it stops being one."""


def check_model_file(payload: bytes, width: int) -> None:
    """Pass a boosted forest of `width` features with one output in log-odds. Raises ModelFileError."""
    document = _Reader(payload).read()
    _keys(document, "", {"learner", "version"})
    _is(document["version"], _list_of(_is_int, 3), "version")
    learner = document["learner"]
    _keys(
        learner, "learner",
        {"attributes", "feature_names", "feature_types", "gradient_booster", "learner_model_param", "objective"},
    )  # fmt: skip
    attributes = learner["attributes"]
    _is(attributes, lambda v: isinstance(v, dict) and all(isinstance(each, str) for each in v.values()), "attributes")
    _is(learner["feature_names"], _list_of(_is_text, width), "feature_names")
    _is(learner["feature_types"], lambda v: v == [] or _list_of(_is_text, width)(v), "feature_types")
    _check_parameters(learner, width)
    booster = learner["gradient_booster"]
    _keys(booster, "gradient_booster", {"model", "name"})
    _is(booster["name"], lambda v: v == "gbtree", "gradient_booster.name")
    _check_trees(booster["model"], width)


def _check_parameters(learner: dict[str, Any], width: int) -> None:
    known = learner["learner_model_param"]
    _keys(known, "learner_model_param", {"base_score", "boost_from_average", "num_class", "num_feature", "num_target"})
    _is(known["base_score"], lambda v: _is_text(v) and 0 < _float(v.strip("[]")) < 1, "base_score")
    _is(known["boost_from_average"], lambda v: v in ("0", "1"), "boost_from_average")
    for name, value in (("num_class", 0), ("num_feature", width), ("num_target", 1)):
        _is(known[name], str(value).__eq__, name)
    objective = learner["objective"]
    _keys(objective, "objective", {"name", "reg_loss_param"})
    _is(objective["name"], lambda v: v == "binary:logistic", "objective.name")
    _keys(objective["reg_loss_param"], "reg_loss_param", {"scale_pos_weight"})
    weight = objective["reg_loss_param"]["scale_pos_weight"]
    _is(weight, lambda v: _is_text(v) and 0 < _float(v) < np.inf, "scale_pos_weight")


def _check_trees(model: Any, width: int) -> None:
    _keys(model, "model", {"cats", "gbtree_model_param", "iteration_indptr", "tree_info", "trees"})
    _keys(model["cats"], "cats", {"enc", "feature_segments", "sorted_idx"})
    for name, value in model["cats"].items():
        _is(value, lambda v: isinstance(v, list | np.ndarray) and len(v) == 0, f"cats.{name}")
    trees = model["trees"]
    _is(trees, lambda v: isinstance(v, list) and len(v) > 0, "trees")
    counted = model["gbtree_model_param"]
    _keys(counted, "gbtree_model_param", {"num_parallel_tree", "num_trees"})
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
    _keys(tree, where, {*_PER_NODE, *_CATEGORIES, "id", "tree_param"})
    _is(tree["id"], lambda v: _is_int(v) and v == number, f"{where}.id")
    parameters = tree["tree_param"]
    _keys(parameters, f"{where}.tree_param", _TREE_PARAMETERS)
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


class _Reader:
    """UBJSON in the subset that XGBoost writes: counted lists, typed arrays, objects, no two keys alike."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._at = 0

    def read(self) -> dict[str, Any]:
        """The one object of the payload; typed arrays as NumPy arrays. Raises ModelFileError."""
        if len(self._payload) > MAX_BYTES:
            raise ModelFileError(f"is larger than {MAX_BYTES:,} bytes")
        if self._take(1) != b"{":
            raise self._wrong("no object")
        whole: dict[str, Any] = {}
        open_: list[tuple[dict[str, Any] | list[Any], int]] = [(whole, 0)]
        """The objects and lists that are not read to their end, and how many values each list still waits for."""
        values = 0
        while open_:
            container, left = open_[-1]
            if isinstance(container, dict):
                if self._peek() == b"}":
                    self._at += 1
                    open_.pop()
                    continue
                key = self._key(container)
            elif left == 0:
                open_.pop()
                continue
            else:
                open_[-1] = container, left - 1
            values += 1
            if values > _MAX_VALUES or len(open_) > _MAX_DEPTH:
                raise self._wrong(f"more than {_MAX_VALUES:,} values or {_MAX_DEPTH} levels")
            value, waits = self._value()
            if isinstance(container, dict):
                container[key] = value
            else:
                container.append(value)
            if isinstance(value, dict) or waits:
                open_.append((value, waits))
        if self._at != len(self._payload):
            raise self._wrong("bytes after the end")
        return whole

    def _key(self, container: dict[str, Any]) -> str:
        if self._take(1) != b"L":
            raise self._wrong("no key")
        key = self._text()
        if key in container:
            raise self._wrong(f"{key!r} a second time")
        return key

    def _value(self) -> tuple[Any, int]:
        """A value, and how many values follow that are its own."""
        mark = self._take(1)
        if mark == b"{":
            return {}, 0
        if mark == b"[":
            return self._array()
        if mark == b"S":
            if self._take(1) != b"L":
                raise self._wrong("no length")
            return self._text(), 0
        if mark in _NUMBERS:
            return self._number(_NUMBERS[mark]), 0
        raise self._wrong(f"{mark!r}, which begins no value")

    def _array(self) -> tuple[Any, int]:
        mark = self._take(1)
        if mark == b"$":
            kind = _ARRAYS.get(self._take(1))
            if kind is None or self._take(2) != b"#L":
                raise self._wrong("no typed array")
            dtype = np.dtype(kind)
            length = self._length(dtype.itemsize)
            return np.frombuffer(self._take(length * dtype.itemsize), dtype).astype(dtype.newbyteorder("=")), 0
        if mark == b"#" and self._take(1) == b"L":
            return [], self._length(1)
        raise self._wrong("no counted list")

    def _text(self) -> str:
        try:
            return self._take(self._length(1)).decode()
        except UnicodeDecodeError as error:
            raise self._wrong("text that is not UTF-8") from error

    def _length(self, bytes_each: int) -> int:
        length = int(self._number(">q"))
        if not 0 <= length <= (len(self._payload) - self._at) // bytes_each:
            raise self._wrong(f"a length of {length:,}, more than the file has left")
        return length

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _peek(self) -> bytes:
        return self._payload[self._at : self._at + 1]

    def _take(self, count: int) -> bytes:
        found = self._payload[self._at : self._at + count]
        if len(found) != count:
            raise self._wrong("the end of the file")
        self._at += count
        return found

    def _wrong(self, what: str) -> ModelFileError:
        return ModelFileError(f"has {what} at byte {self._at:,}")


def _keys(value: Any, where: str, expected: set[str]) -> None:
    if not isinstance(value, dict) or value.keys() != expected:
        found = sorted(value)[:20] if isinstance(value, dict) else type(value).__name__
        raise ModelFileError(f"{where or 'the file'} should have the keys {sorted(expected)}, not {found}")


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
