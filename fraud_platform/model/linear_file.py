"""A logistic regression's `model.ubj`: its numbers as float64, bit for bit, and held against their form when read.

What belongs here: writing and reading. What does not: hashes (`bundle`), scoring (`linear`).
"""

import numpy as np
from numpy.typing import NDArray

from fraud_platform.model.linear import LinearModel
from fraud_platform.model.ubjson import ModelFileError, check_keys, read_document, write_numbers

_GROUP = "logistic_regression"
_PER_FEATURE = ("fill", "weights", "null_weights")
_LARGEST = float(np.finfo(np.float32).max)
"""No sum of products of such numbers and a payment's leaves float64."""


def write_linear(model: LinearModel) -> bytes:
    """The bytes of a model; equal models give equal bytes."""
    numbers = {name: np.array(getattr(model, name)) for name in _PER_FEATURE}
    return write_numbers({_GROUP: numbers | {"intercept": np.array([model.intercept])}})


def read_linear(payload: bytes, width: int) -> LinearModel:
    """The model of `width` features in these bytes. Raises ModelFileError."""
    document = read_document(payload)
    check_keys(document, "", {_GROUP})
    numbers = document[_GROUP]
    check_keys(numbers, _GROUP, {*_PER_FEATURE, "intercept"})
    for name, length in (*((name, width) for name in _PER_FEATURE), ("intercept", 1)):
        _check_numbers(numbers[name], f"{_GROUP}.{name}", length)
    per_feature = {name: tuple(numbers[name].tolist()) for name in _PER_FEATURE}
    return LinearModel(**per_feature, intercept=float(numbers["intercept"][0]))


def _check_numbers(value: NDArray[np.float64], where: str, length: int) -> None:
    if not isinstance(value, np.ndarray) or value.dtype != np.float64 or len(value) != length:
        raise ModelFileError(f"{where} should hold {length} float64 numbers")
    # written so that a NaN is refused too
    if not (np.abs(value) <= _LARGEST).all():
        raise ModelFileError(f"{where} holds a number that is not finite or beyond {_LARGEST:g}")
