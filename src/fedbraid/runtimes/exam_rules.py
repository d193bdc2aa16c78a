"""What the sums of an evaluation must keep to, so that scores can be made of them (see `evaluation.scores`).

    correct, total                        by group of classes: of one shape, the first no larger than the second
    right/<category>, asked/<category>    the same, one number each
    confusion                             square, of as many samples as total
    predicted/<client>, truth/<client>    a row each, of one length
    moment/<name>, score/<name>           single numbers, none without those that it is read with
    tokens, token_loss                    single numbers, none without the other

Names that are not known here are those of an exam from outside the package.
"""

from __future__ import annotations

from collections.abc import Iterator

from fedbraid.algebra import Tensors
from fedbraid.evaluation import MOMENTS
from fedbraid.runtimes.limits import Violation

TOGETHER = {"correct": "total", "total": "correct", "tokens": "token_loss", "token_loss": "tokens"}
TOGETHER_BY_KIND = {"right": "asked", "asked": "right", "predicted": "truth", "truth": "predicted"}
PARTS = {"correct": "total", "right": "asked"}
"""What counts some of the samples that another counts."""
DIMENSIONS = {"correct": 1, "total": 1, "confusion": 2, "predicted": 1, "truth": 1} | dict.fromkeys(
    ("right", "asked", "moment", "score", "score_samples", "tokens", "token_loss"), 0
)


def marks(tensors: Tensors) -> Iterator[Violation]:
    """Whether all that goes together is there and of one shape, and parts are no larger than wholes."""
    for name, tensor in tensors.items():
        kind, _, rest = name.partition("/")
        if tensor.ndim != DIMENSIONS.get(kind, tensor.ndim):
            yield Violation(name, "the shape of its kind", str(tuple(tensor.shape)), f"{DIMENSIONS[kind]} dimensions")
        for other in _needed(name, kind, rest):
            if other not in tensors:
                yield Violation(name, f"something that is read with {other}", "alone", "")
            elif kind in (*PARTS, *TOGETHER_BY_KIND) and tensors[other].shape != tensor.shape:
                yield Violation(
                    name, f"the shape of {other}", str(tuple(tensor.shape)), str(tuple(tensors[other].shape))
                )
            elif kind in PARTS and (tensor > tensors[other]).any():
                place = (tensor - tensors[other]).flatten().argmax()
                found = [f"{one.flatten()[place].item():.6g}" for one in (tensor, tensors[other])]
                yield Violation(name, f"at most {other}", *found)
    yield from _samples(tensors)


def _needed(name: str, kind: str, rest: str) -> list[str]:
    """What a tensor is read with."""
    if name in TOGETHER:
        return [TOGETHER[name]]
    if kind in TOGETHER_BY_KIND:
        return [f"{TOGETHER_BY_KIND[kind]}/{rest}"]
    if kind == "score":
        return ["score_samples"]
    return [f"moment/{moment}" for moment in MOMENTS] if kind == "moment" else []


def _samples(tensors: Tensors) -> Iterator[Violation]:
    if "total" in tensors and not tensors["total"].sum() >= 1:
        yield Violation("total", "samples behind a test", "0", "at least 1")
    confusion = tensors.get("confusion")
    if confusion is None:
        return
    if confusion.shape[0] != confusion.shape[-1]:
        yield Violation("confusion", "a square", str(tuple(confusion.shape)), "")
    if "total" in tensors and confusion.sum() != tensors["total"].sum():
        found = [f"{one.sum().item():.6g}" for one in (confusion, tensors["total"])]
        yield Violation("confusion", "the samples of total", *found)
