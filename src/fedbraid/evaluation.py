"""Metrics of class-incremental learning, from counts, and the scores that data sets are measured by, from sums.

From `a[t][j]`, the accuracy on task j after learning task t, and `acc[t]`, the accuracy over all classes seen then:

    FAA         acc[T]: final accuracy over all classes
    AIA         the mean over tasks of acc[t]: average incremental accuracy
    forgetting  the mean over the tasks j before the last of  max over t < T of a[t][j] - a[T][j]

A score is what a confusion matrix gives (accuracy, F1, macro-F1, Matthews correlation), what told and true numbers give
(Pearson, Spearman), or a mean over samples. Those whose best value is one are shown times 100.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch is imported where tensors come: who only reads records does not wait for it
    from torch import Tensor

    from fedbraid.algebra import Tensors

OF_CLASSES = ("accuracy", "f1", "macro_f1", "matthews")
"""Scores of classes that are told; F1 is that of the second of two."""
OF_NUMBERS = ("pearson", "spearman")
"""Scores of numbers that are told."""


@dataclass(frozen=True)
class Score:
    """How a score is shown: its heading, what it is multiplied by, and whether more of it is better."""

    heading: str
    unit: float = 100.0
    more_is_better: bool = True

    def text(self, value: float | None) -> str:
        """The value as it is shown; a dash where it is not known.

        >>> Score("F1").text(0.876), Score("loss", 1.0).text(0.876), Score("F1").text(None)
        ('87.6', '0.876', '–')
        """
        return "–" if value is None else f"{self.unit * value:.{1 if self.unit > 1 else 3}f}"


SCORES: Mapping[str, Score] = {
    "accuracy": Score("accuracy"),
    "f1": Score("F1"),
    "macro_f1": Score("macro-F1"),
    "matthews": Score("Matthews"),
    "pearson": Score("Pearson"),
    "spearman": Score("Spearman"),
    "bleu": Score("BLEU"),
    "nist": Score("NIST", 1.0),
    "meteor": Score("METEOR"),
    "meteor_stem": Score("METEOR (stems)"),
    "rouge_l": Score("ROUGE-L"),
    "cider": Score("CIDEr", 1.0),
    "loss": Score("loss", 1.0, more_is_better=False),
    "perplexity": Score("perplexity", 1.0, more_is_better=False),
}


@dataclass(frozen=True)
class Counts:
    """Right answers and samples by task after one task of the stream."""

    correct: tuple[int, ...]
    total: tuple[int, ...]

    @property
    def by_task(self) -> tuple[float, ...]:
        return tuple(c / n if n else 0.0 for c, n in zip(self.correct, self.total, strict=True))

    @property
    def overall(self) -> float:
        return sum(self.correct) / max(sum(self.total), 1)


@dataclass(frozen=True)
class Metrics:
    """The table's numbers; accuracies are fractions of one."""

    faa: float
    aia: float
    forgetting: float
    task_mean_accuracy: float
    accuracy_matrix: tuple[tuple[float, ...], ...]
    accuracy_by_task: tuple[float, ...]


def metrics(rows: Sequence[Counts]) -> Metrics:
    """The metrics of a run from the counts after each of its tasks.

    >>> rows = [Counts((9,), (10,)), Counts((6, 10), (10, 10))]
    >>> m = metrics(rows)
    >>> m.faa, round(m.aia, 3), round(m.forgetting, 3)
    (0.8, 0.85, 0.3)
    """
    matrix = tuple(row.by_task for row in rows)
    overall = tuple(row.overall for row in rows)
    last = matrix[-1]
    lost = [max(row[j] for row in matrix[j:-1]) - last[j] for j in range(len(matrix) - 1)]
    return Metrics(
        faa=overall[-1],
        aia=sum(overall) / len(overall),
        forgetting=sum(lost) / len(lost) if lost else 0.0,
        task_mean_accuracy=sum(last) / len(last),
        accuracy_matrix=matrix,
        accuracy_by_task=overall,
    )


def rows_of(records: Sequence[Mapping]) -> list[Counts]:
    """The counts after each task from event records (see `reports.records`): the last evaluation of the task."""
    by_task: dict[int, Counts] = {}
    for record in records:
        if record.get("total"):
            by_task[record["task"]] = Counts(tuple(record["correct"]), tuple(record["total"]))
    return [by_task[task] for task in sorted(by_task)]


def score_of(name: str) -> Score:
    """How the score of that name is shown; a name that is not known heads itself.

    >>> score_of("matthews").heading, score_of("my_score").heading
    ('Matthews', 'my_score')
    """
    return SCORES.get(name, Score(name))


def better(name: str, values: Iterable[float]) -> float:
    """The best of some values of a score."""
    return (max if score_of(name).more_is_better else min)(values)


def scores(total: Tensors) -> dict[str, float]:
    """Every score that the sums of an evaluation give; none where right answers alone were counted.

    The sums: `confusion` (true class x told class, numbered as the data set does); `moment/<name>` (see `moments`);
    `predicted/<client>` and `truth/<client>`, which do not add up across clients and are joined here; `score/<name>`,
    a sum over samples, with `score_samples`; `right/<category>` of `asked/<category>` samples, told of several
    categories; `token_loss`, a sum over `tokens`.

    >>> import torch
    >>> scores({"confusion": torch.tensor([[3, 1], [0, 4]])})["f1"]
    0.8888888888888888
    >>> scores({"score/bleu": torch.tensor(1.5), "score_samples": torch.tensor(2)})
    {'bleu': 0.75}
    """
    import torch

    from fedbraid.algebra import select

    found: dict[str, float] = {}
    if "confusion" in total:
        found |= _of_confusion(total["confusion"].double())
    if sums := select(total, "moment"):
        found["pearson"] = _pearson(sums)
    if predicted := select(total, "predicted"):
        truth = select(total, "truth")
        joined = (torch.cat([part[client] for client in sorted(predicted)]) for part in (predicted, truth))
        found["spearman"] = _pearson(moments(*map(_ranks, joined)))
    for name, value in select(total, "score").items():
        found[name] = (value / total["score_samples"]).item()
    asked = select(total, "asked")
    for name, count in asked.items() if len(asked) > 1 else ():
        found[f"accuracy/{name}"] = (total[f"right/{name}"] / count).item()
    if "tokens" in total:
        loss = (total["token_loss"] / total["tokens"]).item()
        found |= {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}
    return found


MOMENTS = ("count", "predicted", "truth", "predicted_squared", "truth_squared", "product")
"""The names of what `moments` gives."""


def moments(predicted: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """The sums over samples, in fp64, that a correlation follows from."""
    import torch

    p, t = predicted.double(), truth.double()
    return {
        "count": torch.tensor(float(len(p)), dtype=torch.float64),
        "predicted": p.sum(),
        "truth": t.sum(),
        "predicted_squared": p.square().sum(),
        "truth_squared": t.square().sum(),
        "product": (p * t).sum(),
    }


def told(record: Mapping, names: Sequence[str] = ()) -> dict[str, float]:
    """The scores of an event record by name, those of `names` in their order, or all; none without an evaluation."""
    found = dict(record.get("scores") or {})
    if record.get("total"):
        found.setdefault("accuracy", sum(record["correct"]) / max(sum(record["total"]), 1))
    return {name: found[name] for name in names or found if name in found}


def final_scores(records: Sequence[Mapping], names: Sequence[str]) -> dict[str, object]:
    """What results hold of the scores: each as it was last and at its best, and so the main one, which is the first.

    >>> records = [{"scores": {"matthews": 0.5}}, {"scores": {"matthews": 0.4}}]
    >>> final_scores(records, ["matthews"])["best_score"]
    0.5
    """
    rows = [row for record in records if (row := told(record, names))]
    if not rows:
        return {}
    best = {name: better(name, [row[name] for row in rows if name in row]) for name in rows[-1]}
    main = next(iter(rows[-1]))
    return {"scores": rows[-1], "best_scores": best, "score": rows[-1][main], "best_score": best[main]}


def _of_confusion(counts: Tensor) -> dict[str, float]:
    """Zero where a score has nothing to divide by, as in scikit-learn; classes that do not occur are left out."""
    right, true, said = counts.diagonal(), counts.sum(1), counts.sum(0)
    f1 = 2 * right / (true + said).clamp_min(1)
    count, occurs = counts.sum(), (true + said) > 0
    spread = ((count**2 - said @ said) * (count**2 - true @ true)).sqrt()
    found = {"accuracy": right.sum() / count.clamp_min(1), "macro_f1": f1[occurs].sum() / occurs.sum().clamp_min(1)}
    found["matthews"] = (right.sum() * count - true @ said) / spread if spread > 0 else spread
    if len(counts) == 2:
        found["f1"] = f1[1]
    return {name: value.item() for name, value in found.items()}


def _pearson(sums: Mapping[str, Tensor]) -> float:
    """Zero where one side is constant."""
    n, p, t = sums["count"], sums["predicted"], sums["truth"]
    both = n * sums["product"] - p * t
    one, other = n * sums["predicted_squared"] - p**2, n * sums["truth_squared"] - t**2
    spread = (one.clamp_min(0) * other.clamp_min(0)).sqrt()
    return (both / spread).clamp(-1, 1).item() if spread > 0 else 0.0


def _ranks(values: Tensor) -> Tensor:
    """Ranks from one in fp64; equal values share the mean of theirs."""
    _, place, counts = values.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts - 1) / 2)[place]
