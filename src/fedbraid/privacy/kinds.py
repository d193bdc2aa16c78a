"""What each kind of tensor in a message says about the samples behind it, in plain words."""

from __future__ import annotations

from collections.abc import Mapping

TRAINED = (
    "a trained value: with small batches or few samples it can be inverted to samples, and whether a known sample was "
    "among them can be guessed"
)
GRAM = (
    "second moments of a layer's inputs: on fewer samples than dimensions they disclose the span in which all samples "
    "lie, on one sample the sample; two that differ by one sample disclose that sample"
)
COUNT = "the exact number of samples"
CLASS_COUNTS = "the number of samples of every class: the client's label distribution"
UNKNOWN = "nothing is known of this kind here: take it as disclosing its samples"

WORDS: Mapping[str, str] = {
    "diagonal gram": (
        "sums of squares of every feature: how strongly the client's inputs use it; on one sample the size of each of "
        "its features, and on few samples the size of the largest"
    ),
    "gram": GRAM,
    "class gram": f"{GRAM}; one for every class, so the samples are those of the class",
    "product": "a value times a Gram or a weight that travels with it: with the other factor it is the value itself",
    "count": COUNT,
    "class counts": CLASS_COUNTS,
    "class moments": "sums of features by class, and which classes are held; of a class with one sample, its features",
    "prototypes": "one feature vector a class, near the client's class means, under the client's name",
    "sender": "who sent the message: no sum hides it",
    "fisher": "sums of squared gradients: which values matter for the samples; on few, the size of their gradients",
    "gradient": "a gradient of the loss: of few samples it can be inverted to the samples and their labels",
    "sketch": "linear images of an update, from which the update is recovered",
    "test results": "counts of right answers on the client's test samples",
    "test answers": "the told and the true answer of every single test sample",
    "training metrics": "sums of the training loss, and the exact number of samples seen",
}
"""What a kind discloses; the kinds in `VALUES` disclose `TRAINED`."""

VALUES = (
    *("base", "core_A", "core_B", "core_R", "delta_A", "delta_B", "head", "lora_A", "lora_B", "prompt", "scaling"),
    *("vera_b", "vera_d", "weight"),
)
"""Kinds of tuned values, which keep their own name in a report."""

_FIRST: Mapping[str, str] = {
    "diagonal": "diagonal gram",
    **dict.fromkeys(("triangle", "vectors", "values", "gram"), "gram"),
    "second": "class gram",
    **dict.fromkeys(("product", "weighted"), "product"),
    "first": "class moments",
    **dict.fromkeys(("prototypes", "prototype"), "prototypes"),
    "fisher": "fisher",
    "gradient": "gradient",
    **dict.fromkeys(("rows", "columns", "dense", "left", "right"), "sketch"),
    **dict.fromkeys(("correct", "total", "confusion", "score", "score_samples", "moment"), "test results"),
    **dict.fromkeys(("predicted", "truth"), "test answers"),
    "metric": "training metrics",
}
"""The kind of a tensor by the first part of its name."""


def kind_of(name: str, shape: tuple[int, ...]) -> str:
    """The kind of a tensor of a message, from its name; the first part of the name where it is not known.

    >>> [kind_of(name, ()) for name in ("lora_A/blocks.0.fc1", "sum/head/0", "fit/gram", "client/7/count", "client/7")]
    ['lora_A', 'head', 'gram', 'count', 'sender']
    """
    first, _, rest = name.partition("/")
    if first == "client":
        inner = rest.partition("/")[2]
        return kind_of(inner, shape) if inner else "sender"
    if first in ("sum", "positive", "negative", "positive_count", "negative_count") and rest:
        return kind_of(rest, shape)
    if first in ("fit", "held") and rest:
        return "class moments" if rest.startswith("product") else kind_of(rest, shape)
    if first == "count":
        return "class counts" if shape else "count"
    return _FIRST.get(first, first)


def words(kind: str) -> str:
    """What a kind discloses."""
    return WORDS.get(kind, TRAINED if kind in VALUES else UNKNOWN)
