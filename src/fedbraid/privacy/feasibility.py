"""How much of a Gram is left under noise: the relative error of a release, and how many samples it takes.

Derived here. n samples of K clients together, width d, noise multiplier sigma, clip C; on average a sample adds m to
every diagonal entry. Each client adds its own noise of standard deviation sigma C to every number, so the sum carries
sigma C sqrt(K); the sum's own diagonal entries are n m.

    diagonal Gram    C = m sqrt(d) leaves a sample with even entries whole, and an entry's error is
                     sigma C sqrt(K) / (n m)  =  sigma sqrt(d K) / n
    full Gram        one row x adds x x^T of norm |x|^2 = m d, so C = m d. What a solve feels is the noise's spectral
                     norm, 2 sqrt(d) sigma C sqrt(K) for a wide symmetric matrix (Wigner, 1955), against the mean
                     eigenvalue n m:
                     2 sigma C sqrt(d K) / (n m)  =  2 sigma d sqrt(d K) / n

The full Gram needs 2 d times as many samples: at width 768 and sigma 3.7, which is about epsilon 1 at delta 1e-5 for
one release, 10 % take a thousand samples for a diagonal and 1.6 million for the full matrix; at epsilon 8 these are
a quarter of a million. All 48 tuned layers of a ViT-B/16 in one release are one diagonal of width 64,512, and with 10
clients 10 % take 30 thousand samples; uneven samples ask for a larger clip and as many times more. These are errors
of an average entry or eigenvalue: those far below it are lost first. What clipping cuts off is not counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from fedbraid.errors import UserError

Form = Literal["diagonal", "full"]


@dataclass(frozen=True)
class GramPlan:
    """A Gram to be released: its form, width and noise multiplier, and the samples of all `clients` together.

    `clip` is in units of `mean`, what a sample adds to a diagonal entry on average; by default it is the smallest
    that leaves a sample with even entries whole.
    """

    form: Form
    width: int
    samples: int
    sigma: float
    clip: float | None = None
    mean: float = 1.0
    clients: int = 1

    def __post_init__(self) -> None:
        if self.form not in ("diagonal", "full"):
            raise UserError(f"form = {self.form!r}: a Gram is 'diagonal' or 'full'")
        for name in ("width", "samples", "sigma", "mean", "clients"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} = {getattr(self, name)}: it must be above 0")
        if self.clip is not None and not self.clip > 0:
            raise UserError(f"clip = {self.clip}: it must be above 0")


def relative_error(plan: GramPlan) -> float:
    """Of a diagonal the root mean square error of an entry, of a full Gram the noise's spectral norm, each relative to
    the mean entry or eigenvalue; above 1 the noise is larger than what is measured.

    >>> round(relative_error(GramPlan("diagonal", width=768, samples=1000, sigma=3.7)), 3)
    0.103
    """
    return _error_of_one_sample(plan) / plan.samples


def samples_needed(plan: GramPlan, error: float = 0.1) -> int:
    """The samples, of all clients together, with which the relative error is at most `error`.

    >>> [samples_needed(GramPlan(form, width=768, samples=1, sigma=3.7)) for form in ("diagonal", "full")]
    [1026, 1574975]
    """
    if not error > 0:
        raise UserError(f"error = {error}: it must be above 0")
    return math.ceil(_error_of_one_sample(plan) / error)


def statement(plan: GramPlan, error: float = 0.1) -> str:
    """The two numbers as one sentence for a report."""
    what = "a diagonal Gram" if plan.form == "diagonal" else "a full Gram"
    of = "an average entry" if plan.form == "diagonal" else "the average eigenvalue"
    found = relative_error(plan)
    clients = "1 client" if plan.clients == 1 else f"{plan.clients} clients"
    told = f"an error of {found:.2g} of {of}" if found < 1 else f"more noise than signal ({found:.2g} times {of})"
    return (
        f"{what} of width {plan.width} on {plan.samples} samples of {clients} with noise multiplier "
        f"{plan.sigma:.3g} has {told}; {error:.0%} would take {samples_needed(plan, error)} samples"
    )


def _error_of_one_sample(plan: GramPlan) -> float:
    """The relative error on a single sample, with which it falls as 1 / n."""
    root = math.sqrt(plan.width)
    even = root if plan.form == "diagonal" else plan.width
    clip = plan.mean * even if plan.clip is None else plan.clip
    noise = plan.sigma * clip * math.sqrt(plan.clients)
    return noise / plan.mean * (1.0 if plan.form == "diagonal" else 2 * root)
