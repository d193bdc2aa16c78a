"""The privacy report: what leaves a client, said before it leaves, and the Grams that may not leave as they are.

The second rule is about clear mode, in which the server sees each client's own message. A Gram G = X^T X fixes the rows
of X up to a rotation, so on n < d samples its range is the span of exactly these samples, and n = 1 is the sample. All
tokens of a sample are one person's, so samples count here and not tokens, though more tokens may fill the range.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import Tensor

from fedbraid.errors import UserError
from fedbraid.privacy.ledger import RELATION
from fedbraid.wire import Entry, width

LEAST_DIAGONAL = 20
"""The fewest samples of a diagonal Gram in clear mode.

An entry is as good as one sample's own where that sample makes up more than half of it (the dominance rule of
statistical disclosure control). For normal features this happens in a share `n P[Beta(1/2, (n - 1) / 2) > 1/2]` of the
entries: 15 % at 10 samples, 2.4 % at 16 and 0.7 % at 20, the first multiple of five below 1 %.
"""


PUBLIC = "a number that is declared: it does not depend on the samples"
"""What a part discloses that is the same whatever the samples are."""


@dataclass(frozen=True)
class Part:
    """All tensors of one kind in a message. `noised` says whether the epsilon of the report covers them."""

    kind: str
    names: tuple[str, ...]
    numbers: int
    bytes: int
    noised: bool
    discloses: str


@dataclass(frozen=True)
class GramRows:
    """One Gram of a message and the samples behind it; of one a class those of the smallest class."""

    name: str
    kind: str
    width: int
    samples: int
    per_dimension: float

    @property
    def needed(self) -> int:
        """The fewest samples with which it may leave in the clear."""
        return LEAST_DIAGONAL if self.kind == "diagonal gram" else self.width


@dataclass(frozen=True)
class Leaving:
    """What a planned message gives away. `epsilon` covers the noised parts alone."""

    samples: int
    tokens: int | None
    masked: bool
    epsilon: float | None
    delta: float | None
    parts: tuple[Part, ...]
    grams: tuple[GramRows, ...]

    def data(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {**asdict(self), "relation": RELATION, "private": self.private}

    @property
    def private(self) -> bool:
        """Whether epsilon covers the whole message."""
        return self.epsilon is not None and math.isfinite(self.epsilon) and all(part.noised for part in self.parts)

    def lines(self) -> list[str]:
        """The report as text: size, parts, Grams, and what is private of it."""
        numbers, size = (sum(getattr(part, what) for part in self.parts) for what in ("numbers", "bytes"))
        tokens = "" if self.tokens is None else f" ({self.tokens:,} tokens)"
        seen = "the server sees only sums over clients" if self.masked else "the server sees this client's own message"
        found = [f"leaves the client: {numbers:,} numbers, {size:,} bytes, of {self.samples:,} samples{tokens}; {seen}"]
        for part in self.parts:
            tensors = f"{len(part.names)} tensor" + ("s" if len(part.names) > 1 else "")
            found.append(
                f"  {part.kind}: {part.numbers:,} numbers in {tensors}, {part.bytes:,} bytes; {part.discloses}"
            )
        return [*found, *self._gram_lines(), *self._privacy_lines()]

    def _gram_lines(self) -> list[str]:
        found: list[str] = []
        for kind, size in sorted({(gram.kind, gram.width) for gram in self.grams}):
            same = [gram for gram in self.grams if (gram.kind, gram.width) == (kind, size)]
            least = min(gram.samples for gram in same)
            short = " (fewer samples than dimensions)" if least < size else ""
            found.append(f"  {len(same)} x {kind} of width {size}: {least / size:.3g} samples a dimension{short}")
        return found

    def _privacy_lines(self) -> list[str]:
        noised = [part.kind for part in self.parts if part.noised]
        clear = [part.kind for part in self.parts if not part.noised]
        if self.epsilon is None or not noised:
            return ["not private: no noise"]
        found = [f"epsilon = {self.epsilon:.4g} at delta = {self.delta:g} ({RELATION}) for: {', '.join(noised)}"]
        if not math.isfinite(self.epsilon):
            found.append("not private: so little noise protects nobody")
        if clear:
            found.append(f"not private: no noise on {', '.join(clear)}; the epsilon does not cover the whole message")
        return found


def what_leaves(
    found: Sequence[Entry],
    *,
    samples: int,
    tokens: int | None = None,
    masked: bool = False,
    epsilon: float | None = None,
    delta: float | None = None,
) -> Leaving:
    """The report on one planned message, as `wire.entries` tells its tensors apart.

    `epsilon` at `delta` is what the client's ledger says after the message; it covers the quantities that private mode
    releases. Bytes are those on the wire: 4 a number, 8 for a single one and an integer.

    >>> import torch
    >>> from fedbraid.quantities import VALUE
    >>> from fedbraid.wire import entries
    >>> what_leaves(entries({"lora_B/fc1": torch.zeros(8, 2)}, {"lora_B": VALUE}), samples=100).lines()[-1]
    'not private: no noise'
    """
    if (epsilon is None) != (delta is None):
        raise UserError("an epsilon says nothing without its delta: give both or neither")
    alike: dict[tuple[str, str], list[Entry]] = {}
    for entry in found:
        alike.setdefault((entry.label, entry.quantity.discloses), []).append(entry)
    parts = [_part(alike[which], private=epsilon is not None) for which in sorted(alike)]
    grams = [
        GramRows(entry.name, entry.label, size, behind, behind / size)
        for entry in found
        if (size := width(entry))
        if (behind := _samples_of(entry, found, samples))  # a Gram of no samples is zero
    ]
    return Leaving(samples, tokens, masked, epsilon, delta, tuple(parts), tuple(grams))


def _part(entries: Sequence[Entry], *, private: bool) -> Part:
    """Tensors that disclose the same; where it is `private`, a number that was declared says nothing of the samples."""
    quantity = entries[0].quantity
    return Part(
        entries[0].label,
        tuple(entry.name for entry in entries),
        sum(entry.tensor.numel() for entry in entries),
        sum(_bytes(entry.tensor) for entry in entries),
        private and quantity.released != "nothing",
        PUBLIC if private and quantity.released == "declared" else quantity.discloses,
    )


def check_gram_samples(
    samples: int,
    width: int,
    name: str,
    *,
    masked: bool,
    form: Literal["full", "diagonal"] = "full",
    allow: bool = False,
    word: str = "allow=True",
) -> None:
    """`UserError` where a Gram would leave in the clear on too few samples (see the head of this file).

    `form` is "full" for everything but a diagonal, low-rank parts included; `width` is that of the Gram itself, the
    rank for a projected one. `word` is how the user allows it, for the message. A masked sum hides single clients.
    """
    least = LEAST_DIAGONAL if form == "diagonal" else width
    if masked or allow or samples >= least:
        return
    if form == "diagonal":
        why, other = "single samples would make up most of single entries", ""
    else:
        why, other = f"its width is {width}, so it discloses the span of these samples", "a diagonal Gram, "
    raise UserError(
        f"the Gram of {name!r} would be taken on {samples} samples and leave this client in the clear: {why}. It needs "
        f"{least} samples; take more samples, {other}masked mode, or allow it explicitly by {word}"
    )


def _bytes(tensor: Tensor) -> int:
    if not tensor.is_floating_point():
        return tensor.numel() * tensor.element_size()
    return tensor.numel() * (4 if tensor.ndim else 8)


def _samples_of(gram: Entry, entries: Sequence[Entry], samples: int) -> int:
    """The samples of a Gram: those that a count at its place tells, of the smallest class if it counts by class."""
    told = (e.tensor for e in entries if e.place == gram.place and e.quantity.counts in ("samples", "the same"))
    count = next(told, None)
    if count is None or (not gram.place and not count.ndim):
        return samples
    held = count[count > 0]
    return int(held.min().item()) if held.numel() else 0
