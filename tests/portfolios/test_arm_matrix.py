"""A table that remembers the names of its columns, and forgets them where they would be wrong."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from defer.portfolios import ArmMatrix


@pytest.fixture
def matrix() -> ArmMatrix:
    return ArmMatrix([[1.0, 0.0], [0.0, 1.0], [0.5, np.nan]], arms=["small", "large"])


@pytest.mark.parametrize(
    "rows", [slice(1, None), [0, 2], np.array([True, False, True]), np.array([-1, 0]), (slice(0, 1), Ellipsis)]
)
def test_rows_keep_the_names(matrix, rows):
    assert matrix[rows].arms == ("small", "large")
    assert np.array_equal(matrix[rows], np.asarray(matrix)[rows], equal_nan=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda matrix: matrix[:, ::-1],
        lambda matrix: matrix[:, [0]],
        lambda matrix: matrix[0],
        lambda matrix: matrix.T,
        lambda matrix: matrix + 1,
        lambda matrix: np.sqrt(matrix),
        lambda matrix: matrix.mean(axis=0),
        lambda matrix: matrix[None],
        lambda matrix: np.vstack([matrix, matrix]),
        lambda matrix: np.asarray(matrix),
    ],
)
def test_whatever_may_change_the_columns_forgets_the_names(matrix, change):
    assert getattr(change(matrix), "arms", None) is None


def test_reductions_are_plain_numbers(matrix):
    assert type(np.nansum(matrix)) in (float, np.float64)
    assert type(matrix.max()) in (float, np.float64)


@pytest.mark.parametrize("twin", [copy.copy, copy.deepcopy, lambda matrix: pickle.loads(pickle.dumps(matrix))])
def test_copies_keep_names_and_values(matrix, twin):
    other = twin(matrix)
    assert type(other) is ArmMatrix
    assert other.arms == matrix.arms
    assert np.array_equal(other, matrix, equal_nan=True)


def test_copy_is_writable_and_apart(matrix):
    matrix.setflags(write=False)
    twin = matrix.copy()
    twin[0, 0] = 7.0
    assert twin.arms == ("small", "large")
    assert matrix[0, 0] == 1.0


def test_pickle_of_a_matrix_without_names_is_a_plain_array(matrix):
    plain = pickle.loads(pickle.dumps(matrix[:, ::-1]))
    assert type(plain) is np.ndarray


@pytest.mark.parametrize("values", [np.zeros((2, 3)), np.zeros(2)])
def test_names_and_columns_must_agree(values):
    with pytest.raises(ValueError, match=r"an ArmMatrix of 2 arms must have shape \(n, 2\), got"):
        ArmMatrix(values, arms=["small", "large"])
