"""The metrics against a table worked out by hand."""

import pytest

from fedbraid.evaluation import Counts, metrics


def test_a_hand_made_table() -> None:
    """Three tasks of 10, 20 and 5 samples; task 0 is remembered best after task 1."""
    rows = [Counts((5,), (10,)), Counts((8, 16), (10, 20)), Counts((4, 10, 5), (10, 20, 5))]
    m = metrics(rows)
    assert m.accuracy_matrix == ((0.5,), (0.8, 0.8), (0.4, 0.5, 1.0))
    assert m.accuracy_by_task == pytest.approx((5 / 10, 24 / 30, 19 / 35))
    assert m.faa == pytest.approx(19 / 35)
    assert m.aia == pytest.approx((5 / 10 + 24 / 30 + 19 / 35) / 3)
    assert m.forgetting == pytest.approx(((0.8 - 0.4) + (0.8 - 0.5)) / 2)
    assert m.task_mean_accuracy == pytest.approx((0.4 + 0.5 + 1.0) / 3)


def test_one_task_forgets_nothing_and_gains_are_negative_forgetting() -> None:
    assert metrics([Counts((3,), (4,))]).forgetting == 0
    assert metrics([Counts((1,), (4,)), Counts((3, 2), (4, 4))]).forgetting == pytest.approx(-0.5)


def test_a_task_without_test_samples_counts_as_zero() -> None:
    m = metrics([Counts((1,), (2,)), Counts((1, 0), (2, 0))])
    assert m.accuracy_matrix[1] == (0.5, 0.0)
    assert m.faa == 0.5
