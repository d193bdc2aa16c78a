"""Scores from sums, against scikit-learn's and scipy's own formulas on the samples themselves."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from fedbraid.algebra import Statistic, total
from fedbraid.evaluation import final_scores, moments, score_of, scores, told


def confusion(truth, said, classes):
    counts = torch.zeros(classes, classes, dtype=torch.int64)
    for t, p in zip(truth, said, strict=True):
        counts[t, p] += 1
    return counts


def drawn(count, classes, seed, agreement=0.6):
    draws = torch.Generator().manual_seed(seed)
    truth = torch.randint(classes, (count,), generator=draws)
    other = torch.randint(classes, (count,), generator=draws)
    return truth.tolist(), torch.where(torch.rand(count, generator=draws) < agreement, truth, other).tolist()


@pytest.mark.parametrize(("classes", "seed"), [(2, 0), (2, 1), (3, 2), (7, 3)])
def test_scores_of_classes(classes, seed):
    truth, said = drawn(80, classes, seed)
    found = scores({"confusion": confusion(truth, said, classes)})
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, said))
    assert found["macro_f1"] == pytest.approx(f1_score(truth, said, average="macro"))
    assert found["matthews"] == pytest.approx(matthews_corrcoef(truth, said))
    assert ("f1" in found) == (classes == 2)
    if classes == 2:
        assert found["f1"] == pytest.approx(f1_score(truth, said))


def test_classes_that_do_not_occur_are_left_out():
    truth, said = drawn(40, 3, seed=5)
    wide = scores({"confusion": confusion(truth, said, 9)})
    assert wide["macro_f1"] == pytest.approx(f1_score(truth, said, average="macro"))


@pytest.mark.parametrize(
    ("truth", "said"), [([0, 0, 1, 1], [0, 0, 0, 0]), ([0, 0, 0, 0], [0, 1, 0, 1]), ([1, 1], [1, 1])]
)
def test_nothing_to_divide_by_is_zero(truth, said):
    found = scores({"confusion": confusion(truth, said, 2)})
    assert found["matthews"] == matthews_corrcoef(truth, said) == 0
    assert found["f1"] == pytest.approx(f1_score(truth, said, zero_division=0))


def test_correlations_are_those_of_the_union_of_clients():
    draws = torch.Generator().manual_seed(0)
    truth = (torch.rand(60, generator=draws) * 5).round(decimals=1)
    said = truth + torch.randn(60, generator=draws).round(decimals=1) + 100  # ties on both sides, far from zero
    parts = [
        Statistic(
            {f"moment/{k}": v for k, v in moments(said[rows], truth[rows]).items()}
            | {f"predicted/{client}": said[rows], f"truth/{client}": truth[rows]}
        )
        for client, rows in (("b", slice(0, 25)), ("a", slice(25, 60)))
    ]
    found = scores(total(parts))
    assert found == scores(total(parts[::-1]))
    assert found["pearson"] == pytest.approx(pearsonr(said.double(), truth.double()).statistic, abs=1e-9)
    assert found["spearman"] == pytest.approx(spearmanr(said, truth).statistic, abs=1e-12)


def test_a_constant_correlates_with_nothing():
    said, truth = torch.full((5,), 2.3), torch.arange(5.0)
    sums = {f"moment/{k}": v for k, v in moments(said, truth).items()}
    assert scores(sums | {"predicted/a": said, "truth/a": truth}) == {"pearson": 0.0, "spearman": 0.0}


def test_accuracies_of_categories_and_the_loss_are_made_of_sums():
    counts = {"asked/a": 4, "right/a": 1, "asked/b": 2, "right/b": 2}
    assert scores({key: torch.tensor(n) for key, n in counts.items()}) == {"accuracy/a": 0.25, "accuracy/b": 1.0}
    assert scores({"asked/a": torch.tensor(4), "right/a": torch.tensor(1)}) == {}
    found = scores({"token_loss": torch.tensor(6.0), "tokens": torch.tensor(3)})
    assert found == {"loss": 2.0, "perplexity": pytest.approx(math.exp(2.0))}


def test_means_over_samples_have_a_general_form():
    found = scores({"score/bleu": torch.tensor(3.0), "score/mine": torch.tensor(1.0), "score_samples": torch.tensor(4)})
    assert found == {"bleu": 0.75, "mine": 0.25}
    assert scores({"correct": torch.tensor([3]), "total": torch.tensor([4])}) == {}


def test_a_record_tells_what_the_data_set_is_measured_by():
    counted = {"correct": [3, 1], "total": [4, 4], "scores": {"f1": 0.7, "matthews": 0.1}}
    assert told(counted) == {"f1": 0.7, "matthews": 0.1, "accuracy": 0.5}
    assert list(told(counted, ["accuracy", "f1"]).items()) == [("accuracy", 0.5), ("f1", 0.7)]
    assert told({"correct": None, "total": None, "scores": {}}, ["pearson"]) == {}


def test_the_best_is_the_least_where_less_is_better():
    records = [{"scores": {"loss": value, "bleu": value}} for value in (0.9, 0.4, 0.6)] + [{"scores": {}}]
    assert final_scores(records, ["loss", "bleu"]) == {
        "scores": {"loss": 0.6, "bleu": 0.6},
        "best_scores": {"loss": 0.4, "bleu": 0.9},
        "score": 0.6,
        "best_score": 0.4,
    }
    assert final_scores([{"scores": {}}], ["loss"]) == {}


def test_scores_are_shown_in_their_own_unit():
    assert (score_of("matthews").text(-0.0312), score_of("nist").text(8.5123)) == ("-3.1", "8.512")
    assert math.isclose(score_of("unknown").unit, 100)
