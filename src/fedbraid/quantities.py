"""What every tensor that travels is: one table, which gate, robust, masked and private modes, merges and reports read.

    value       a tuned value                       count       whole numbers from zero on
    moment      a sum of vectors, as of features    gram        a sum of products x x^T, laid out in one of five ways
    squares     a sum of squared gradients          product     a value times what weighs it
    sum         any other sum over samples          direction   unit vectors, which do not add
    owner       whose the message is                metric      a number for reports alone

A `Quantity` is a row of the table. The answers of the modes are fields without defaults, so a row that lacks the answer
of some mode cannot be written. A phase declares what its clients send by the beginnings of names (see `wire`):
`{"diagonal": DIAGONAL}` speaks of the tensor `diagonal/head/0`. Nothing is guessed from a name and no sender is asked:
server and site read the declarations of the method that they run themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

Role = Literal["value", "count", "moment", "gram", "squares", "product", "sum", "direction", "owner", "metric"]
Form = Literal["", "diagonal", "triangle", "square", "vectors", "values"]


@dataclass(frozen=True)
class Quantity:
    """What a tensor is, and so what every mode does with it."""

    role: Role
    label: str
    """What reports call it; empty where that is the kind in its own name, as of tuned values and own sums."""
    bound: Literal["value", "values", "count", "tokens", "trace", "one", "sample", "nothing"]
    """Gate: how large a number may be. As a tuned value, or as some of them added; as a number of samples, or of their
    tokens; as the trace of a Gram; one; so much for every sample behind it; whatever it is."""
    compared: Literal["change", "weight", "trace", "gradients", "size", "nothing"]
    """Robust mode: what of it is compared. Its change from what was received; its total, which is a weight in a merge;
    its trace by sample; the same, but loosely, since gradients differ by orders of magnitude; its size."""
    clipped: Literal["change", "weight", "nothing"]
    """Robust mode: what is made smaller in an update that is clipped. Its change; itself, as if of fewer samples."""
    fraction: int | None
    """Masked mode: how many bits of its sum lie after the point. None where it is one client's and no sum hides it."""
    released: Literal["training", "grams", "declared", "derived", "nothing"]
    """Private mode: why it may leave. It carries the noise of training, or that of diagonal Grams; it is a number that
    was declared; it is made of such alone. Nothing: it may not."""
    discloses: str
    """Report: what it says of the samples behind it, in plain words."""
    form: Form = ""
    """How a Gram is laid out. A triangle lies in the last dimension; there may be one for each class."""
    counts: Literal["", "samples", "the same", "epochs", "sender"] = ""
    """What a count counts, where it must agree with others: the samples behind the message, or behind the part of it
    under one place; the same samples, by class or by client; those of all epochs; the one who sends."""
    against: tuple[str, ...] = ()
    """The kinds at the same place that say how large it may be: squares for a moment, a Gram for a product."""

    @property
    def signed(self) -> bool:
        """Whether its numbers may be below zero."""
        return self.role not in ("count", "squares", "owner") and self.form not in ("diagonal", "values")

    @property
    def owned(self) -> bool:
        """Whether it is one client's own, so that no sum hides it."""
        return self.fraction is None

    @property
    def again(self) -> Quantity:
        """The same beside another count of the samples: it counts them once more."""
        return replace(self, counts="the same") if self.counts == "samples" else self

    def saying(self, discloses: str, label: str = "") -> Quantity:
        """The same quantity with words of its own for reports."""
        return replace(self, discloses=discloses, label=label or self.label)


Gives: TypeAlias = Mapping[str, Quantity]
"""What is declared: beginnings of names, without a slash at the end, and what tensors of these names are."""

BITS, FINE, FINER = 24, 36, 40
"""Bits after the point: an error of at most `n 2^-25` in a sum of n clients and room for `2^39 / n`; and more of them,
with less room, where what is made of a sum depends on small numbers."""

_INVERTED = (
    "with small batches or few samples it can be inverted to samples, and whether a known sample was among them can be "
    "guessed"
)
_GRAM = (
    "second moments of a layer's inputs: on fewer samples than dimensions they disclose the span in which all samples "
    "lie, on one sample the sample; two that differ by one sample disclose that sample"
)
_DIAGONAL = (
    "sums of squares of every feature: how strongly the client's inputs use it; on one sample the size of each of its "
    "features, and on few samples the size of the largest"
)

# Tuned values, and what is made of them.
VALUE = Quantity("value", "", "value", "change", "change", BITS, "training", f"a trained value: {_INVERTED}")
WEIGHTED = Quantity(
    "product", "weighted values", "values", "size", "weight", BITS, "derived",
    f"a trained value times the number of samples, which travels too: {_INVERTED}",
)  # fmt: skip
PRODUCT = Quantity(
    "product", "product", "sample", "size", "weight", BITS, "derived",
    "a value times a Gram or a weight that travels with it: with the other factor it is the value itself",
    against=("diagonal", "triangle"),
)  # fmt: skip
UPDATE_PRODUCT = replace(
    PRODUCT.saying(f"the low-rank update, its factors multiplied: {_INVERTED}", "update"), against=()
)
SKETCH = UPDATE_PRODUCT.saying("linear images of the low-rank update, from which it is recovered", "sketch")
SIGNED_CHANGES = replace(
    WEIGHTED.saying(f"the parts of a change that are of one sign, times the number of samples: {_INVERTED}", "changes"),
    bound="sample", fraction=FINE,
)  # fmt: skip
FISHER_PRODUCT = replace(PRODUCT, against=("fisher",), fraction=FINER)

# Counts.
COUNT = Quantity(
    "count", "", "count", "weight", "weight", BITS, "nothing",
    "how many of the client's samples are of some kind, exactly",
)  # fmt: skip
SAMPLES = replace(COUNT.saying("the exact number of samples", "count"), counts="samples", released="declared")
CLASS_COUNTS = replace(
    COUNT.saying("the number of samples of every class: the client's label distribution", "class counts"),
    counts="samples",
)  # fmt: skip
SIGN_COUNTS = replace(
    COUNT.saying("which values grew and which fell in training, and the exact number of samples", "signs"),
    released="derived",
)
SENDERS = replace(
    COUNT.saying("that one client sent the message", "sender"), clipped="nothing", released="declared", counts="sender"
)  # fmt: skip

# Sums over samples.
SUM = Quantity(
    "sum", "", "sample", "size", "weight", BITS, "nothing",
    "a sum over the client's samples that the method defines: on few samples take it as disclosing them",
)  # fmt: skip
GRADIENT = SUM.saying(
    "a gradient of the loss: of few samples it can be inverted to the samples and their labels", "gradient"
)
MOMENT = Quantity(
    "moment", "class moments", "sample", "size", "weight", BITS, "nothing",
    "sums of features by class, and which classes are held; of a class with one sample, its features",
    against=("second", "gram"),
)  # fmt: skip
SQUARES = Quantity(
    "squares", "fisher", "trace", "gradients", "weight", FINER, "nothing",
    "sums of squared gradients: which values matter for the samples; on few, the size of their gradients",
)  # fmt: skip

# Grams, by how they are laid out.
DIAGONAL = Quantity("gram", "diagonal gram", "trace", "trace", "weight", BITS, "grams", _DIAGONAL, form="diagonal")
GRAM = Quantity("gram", "gram", "trace", "trace", "weight", BITS, "nothing", _GRAM, form="triangle")
SQUARE_GRAM = replace(GRAM, form="square")
CLASS_GRAM = GRAM.saying(f"{_GRAM}; one for every class, so the samples are those of the class", "class gram")
EIGENVALUES = replace(GRAM, compared="nothing", form="values")
DIRECTION = Quantity("direction", "gram", "one", "nothing", "nothing", BITS, "nothing", _GRAM, form="vectors")

# What is one client's own, and what goes to reports.
OWNER = Quantity(
    "owner", "sender", "one", "nothing", "nothing", None, "nothing", "who sent the message: no sum hides it"
)  # fmt: skip
METRIC = Quantity(
    "metric", "training metrics", "nothing", "nothing", "weight", BITS, "nothing",
    "sums of the training loss, and the exact number of samples seen",
)  # fmt: skip
TRAINED_SAMPLES = replace(METRIC, role="count", bound="count", counts="epochs")
RESULT = replace(METRIC.saying("sums of scores on the client's test samples", "test results"), bound="sample")
RESULTS = replace(
    COUNT.saying("counts of right answers on the client's test samples", "test results"), compared="nothing"
)  # fmt: skip
TOKENS = replace(RESULTS, bound="tokens")
ANSWERS = replace(
    RESULT.saying("the told and the true answer of every single test sample", "test answers"), fraction=None
)  # fmt: skip


def own(gives: Gives) -> Gives:
    """The same quantities as one client's own, sent under `client/<id>/<name>`: no sum hides them."""
    owned = {name: replace(quantity.again, fraction=None) for name, quantity in gives.items()}
    return {
        f"client/*/{name}": quantity.saying(f"{quantity.discloses}; under the client's own name")
        for name, quantity in owned.items()
    }


def placed(place: str, gives: Gives) -> Gives:
    """The same under a place: `fit`, `held`, ..."""
    return {f"{place}/{name}": quantity for name, quantity in gives.items()}


GRAMS: Gives = {"diagonal": DIAGONAL, "triangle": GRAM, "vectors": DIRECTION, "values": EIGENVALUES}
"""The Gram of a value in all its travelling forms (see `merges.grams`)."""
CLASS_MOMENTS: Gives = {"count": CLASS_COUNTS, "first": MOMENT}
"""Sums of features by class."""
TRAINING_METRICS: Gives = {"metric/loss": METRIC, "metric/samples": TRAINED_SAMPLES}
"""What training says of itself."""
VALUES = (
    *("base", "core_A", "core_B", "core_R", "delta_A", "delta_B", "head", "lora_A", "lora_B", "projection", "prompt"),
    *("scaling", "vera", "vera_b", "vera_d", "vera_M", "weight"),
)
"""The kinds of values that a model loads."""
MEASURES: Gives = {**GRAMS, "fisher": SQUARES, "client/*": OWNER}
"""What is measured about a value, and whose an update is: the names by which merges know it."""
RESERVED: Mapping[str, Quantity | None] = {
    **MEASURES,
    "count": SAMPLES,
    **dict.fromkeys(("beside", "client", "keep", "metric"), None),
}
"""Names that mean one thing everywhere, so that nobody gives them another; None where nobody may declare them."""
