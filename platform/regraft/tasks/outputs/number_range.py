"""Statistics of fp64 numbers of any size: 1e15 and 1e15 + 1, 1e300 and 1e-310.

Ordinary numbers go through numpy's own functions, whose results stay as they were. Others are centred and divided by
a power of two first: their squares would be infinite, or 0.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
_LEAST, _MOST = 1e-100, 1e100
"""Sizes of numbers whose squares fp64 holds."""
_NARROW = 1e6
"""Numbers that lie this many deviations from 0 are centred, so that no digits are lost."""


def mean_of(numbers: Numbers) -> float:
    """Return the mean, which is finite for finite numbers."""
    unit = unit_of(numbers)
    return float((numbers / unit).mean() * unit)


def deviation_of(numbers: Numbers) -> float:
    """Return the standard deviation, above 0 unless all numbers are equal: then a computed one is a rounding error."""
    if numbers.min() == numbers.max():
        return 0.0
    unit = unit_of(numbers)
    found = float((numbers / unit).std() * unit)
    if _LEAST < found < _MOST:
        return found
    center = mean_of(numbers)
    unit = unit_of(numbers - center)
    return float(((numbers - center) / unit).std() * unit) or math.ulp(0.0)


def unit_of(*numbers: Numbers) -> float:
    """Return 1 for numbers of ordinary size, else the power of two below the largest of them."""
    largest = max((float(np.abs(some).max()) for some in numbers if some.size), default=0.0)
    if largest == 0.0 or _LEAST < largest < _MOST:
        return 1.0
    return 2.0 ** max(math.frexp(largest)[1] - 1, -1070)


def small_pair(true: Numbers, predicted: Numbers) -> tuple[Numbers, Numbers, float]:
    """Return two sides whose squares fp64 holds, and the unit to multiply distances between them by."""
    spread = deviation_of(true) or 1.0
    center = mean_of(true)
    ordinary = unit_of(true, predicted) == 1.0 and spread > _LEAST and abs(center) < _NARROW * spread
    if ordinary:
        return true, predicted, 1.0
    true, predicted = true - center, predicted - center
    unit = unit_of(true, predicted)
    return true / unit, predicted / unit, unit
