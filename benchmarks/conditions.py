"""The closed forms over the condition of their Grams: an answer that is right, or an error with a name.

    python benchmarks/conditions.py [--width 64] [--seeds 5]

Clients hold inputs whose summed Gram has the given condition, and weights of their own. A merge is compared with the
ridge regression of the stacked data, which numpy solves by SVD without forming a Gram. The error is that of the
responses, relative: `|(W - W_ref) X| / |W_ref X|`, the largest of all seeds. A cell is that error, or `error` where the
solve says that it cannot (`RunError`); a larger error than 1e-3 without one is a failure. Rows of fp32 show what the
rounding of Grams on the wire adds to that, which no solve can take back: a failure there is an error above 1e-2.

    regmean          three clients with other weights, Grams in fp64           ridge 0 and 1e-6
    regmean, fp32    Grams and weights through the codec, as they travel       ridge 0 and 1e-6
    lorm             right factors of three tasks                              ridge 1e-6
    ridge            a linear head from class sums                             ridge 1e-6
    diagonal         regmean with the diagonals alone, against the diagonal problem
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedbraid.algebra import Tensors, total
from fedbraid.errors import RunError
from fedbraid.linalg import right_solve, to_triangle
from fedbraid.merges.lorm import right_factors
from fedbraid.merges.regmean import RegMean
from fedbraid.merges.ridge import Moments, ridge_head
from fedbraid.runtimes.codec import Codec

CONDITIONS = tuple(10.0**power for power in range(2, 13, 2))
LIMIT, ROUNDED = 1e-3, 1e-2
ROWS = 8


@dataclass(frozen=True)
class World:
    """Inputs (d x n) and weights (m x d) of every client."""

    inputs: Sequence[Tensor]
    weights: Sequence[Tensor]

    @property
    def stacked(self) -> Tensor:
        return torch.cat(list(self.inputs), dim=1)

    @property
    def answers(self) -> Tensor:
        return torch.cat([w @ x for w, x in zip(self.weights, self.inputs, strict=True)], dim=1)

    @property
    def grams(self) -> list[Tensor]:
        return [x @ x.T for x in self.inputs]

    @property
    def mean(self) -> Tensor:
        return torch.stack(list(self.weights)).mean(0)

    @property
    def width(self) -> int:
        return self.inputs[0].shape[0]


def world(width: int, condition: float, seed: int, *, samples: int | None = None, clients: int = 3) -> World:
    """Inputs in random directions whose sizes fall evenly (in logarithms) from 1 to 1/sqrt(condition)."""
    draws = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(width, width, generator=draws, dtype=torch.float64)).Q
    sizes = torch.logspace(0, -math.log10(condition) / 2, width, dtype=torch.float64)
    count = samples or 4 * width

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draws, dtype=torch.float64)

    inputs = [basis @ (sizes[:, None] * normal(width, count)) for _ in range(clients)]
    return World(inputs, [normal(ROWS, width) for _ in range(clients)])


def reference(inputs: Tensor, answers: Tensor, mean: Tensor, ridge: float) -> Tensor:
    """`argmin |W X - Y|^2 + lam |W - mean|^2` of the stacked system."""
    lam = ridge * inputs.square().sum().item() / len(inputs)
    rows, right = inputs.T.numpy(), answers.T.numpy()
    if lam:
        rows = np.vstack([rows, math.sqrt(lam) * np.eye(len(inputs))])
        right = np.vstack([right, math.sqrt(lam) * mean.T.numpy()])
    return torch.from_numpy(np.linalg.lstsq(rows, right, rcond=None)[0].T)


def error(found: Tensor, expected: Tensor, inputs: Tensor) -> float:
    """Of the responses, relative; infinite where it is no number."""
    wrong = torch.linalg.norm((found - expected) @ inputs) / torch.linalg.norm(expected @ inputs).clamp_min(1e-300)
    return wrong.item() if math.isfinite(wrong.item()) else math.inf


def regmean(w: World, ridge: float, *, wire: bool = False) -> float:
    def sent(update: Tensors) -> Tensors:
        return Codec().decode(Codec().encode(update)).tensors if wire else update

    merge = RegMean(ridge)
    updates = [
        sent({"w": weight, "triangle/w": to_triangle(gram), "count": torch.tensor(1.0, dtype=torch.float64)})
        for weight, gram in zip(w.weights, w.grams, strict=True)
    ]
    merged = merge.solve(total(merge.lift(update) for update in updates))["w"]
    return error(merged, reference(w.stacked, w.answers, w.mean, ridge), w.stacked)


def diagonal(w: World, ridge: float) -> float:
    """The problem whose Grams are diagonal is that of inputs along the axes."""
    sizes = [gram.diagonal().sqrt() for gram in w.grams]
    return regmean(World([torch.diag(size) for size in sizes], w.weights), ridge)


def lorm(w: World, ridge: float) -> float:
    factors = [weight[:2] for weight in w.weights]
    products = [factor @ gram for factor, gram in zip(factors, w.grams, strict=True)]
    gram = torch.stack(w.grams).sum(0)
    found = torch.cat(right_factors(factors, products, gram, ridge=ridge))
    answers = torch.block_diag(*factors) @ torch.block_diag(*w.inputs)
    return error(found, reference(w.stacked, answers, torch.cat(factors) / len(factors), ridge), w.stacked)


def head(w: World, ridge: float) -> float:
    labels = torch.arange(w.stacked.shape[1]) % ROWS
    wanted = torch.nn.functional.one_hot(labels, ROWS).T.double()
    moments = Moments(w.stacked @ w.stacked.T, wanted @ w.stacked.T, torch.tensor(1.0))
    return error(ridge_head(moments, ridge), reference(w.stacked, wanted, torch.zeros(ROWS, w.width), ridge), w.stacked)


FORMS: dict[str, Callable[[World], float]] = {
    "regmean, ridge 0": lambda w: regmean(w, 0.0),
    "regmean, ridge 1e-6": lambda w: regmean(w, 1e-6),
    "regmean, fp32, ridge 0": lambda w: regmean(w, 0.0, wire=True),
    "regmean, fp32, ridge 1e-6": lambda w: regmean(w, 1e-6, wire=True),
    "lorm, ridge 1e-6": lambda w: lorm(w, 1e-6),
    "ridge, ridge 1e-6": lambda w: head(w, 1e-6),
    "diagonal, ridge 1e-6": lambda w: diagonal(w, 1e-6),
}


def judged(form: Callable[[World], float], worlds: Sequence[World]) -> tuple[float, int]:
    """(the largest error of those that were solved, how many said that they cannot be)."""
    errors, refused = [0.0], 0
    for w in worlds:
        try:
            errors.append(form(w))
        except RunError:
            refused += 1
    return max(errors), refused


def cell(worst: float, refused: int, worlds: int) -> str:
    solved = f"{worst:.1e}" if refused < worlds else ""
    return " ".join(part for part in (solved, f"{refused} error" if refused else "") if part)


def table(width: int, seeds: int) -> bool:
    """Prints a row for every form; whether all were right or named."""
    kinds = {f"{condition:.0e}": {"condition": condition} for condition in CONDITIONS}
    kinds["n = d/2"] = {"condition": 1e2, "samples": width // 6}  # of each of three clients
    kinds["n = 1"] = {"condition": 1e2, "samples": 1, "clients": 1}
    kinds["zero"] = {"condition": 1e2}
    print(f"{'':26}" + "".join(f"{title:>17}" for title in kinds))
    good = True
    for title, form in FORMS.items():
        cells: list[str] = []
        for kind, options in kinds.items():
            worlds = [world(width, seed=seed, **options) for seed in range(seeds)]
            if kind == "zero":
                worlds = [World([0 * x for x in w.inputs], w.weights) for w in worlds]
            errors, refused = judged(form, worlds)
            good &= errors <= (ROUNDED if "fp32" in title else LIMIT)
            cells.append(cell(errors, refused, seeds))
        print(f"{title:26}" + "".join(f"{text:>17}" for text in cells), flush=True)
    return good


def poisoned(width: int) -> bool:
    """Prints what the solve says of Grams that are none; whether it names all of them."""
    w = world(width, 1e2, 0)
    gram, product = torch.stack(w.grams).sum(0), w.mean @ torch.stack(w.grams).sum(0)
    unknown = gram.clone()
    unknown[1, 2] = math.nan
    spoilt = {
        "NaN in the Gram": (unknown, product),
        "infinity in the Gram": (gram * math.inf, product),
        "NaN in the product": (gram, product * math.nan),
        "a negative Gram": (-gram, product),
        "an indefinite Gram": (gram - gram.diagonal().mean() * torch.eye(width), product),
        "a trace of zero": (gram - torch.diag(gram.diagonal()), product),
        "a negative diagonal": (-gram.diagonal(), product),
        "a subnormal Gram": (gram * 5e-324, product),
        "a huge Gram": (gram * 1e306, product),
    }
    good = True
    for title, (bad, right) in spoilt.items():
        try:
            found = right_solve(right, bad, w.mean, ridge=0.0)
        except RunError as told:
            print(f"  {title:22} error: {told}")
        else:
            kept = torch.isfinite(found).all().item()
            print(f"  {title:22} an answer, {'finite' if kept else 'NOT FINITE'}")
            good = False
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    good = [table(options.width, options.seeds), poisoned(options.width)]
    print("every answer is right to 1e-3 or a named error" if all(good) else "A WRONG ANSWER WITHOUT AN ERROR")
    sys.exit(not all(good))


if __name__ == "__main__":
    main()
