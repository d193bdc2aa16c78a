"""Privacy: what leaves a client, and sample-level differential privacy for it; off unless asked for.

    guard        what stands between a client and what it sends
    report       what a message discloses, and the Grams that may not leave in the clear
    protection   how a client's work is made private, and what a round of it costs
    account      a client's secret and ledger on its own disk
    ledger       budgets, releases and what was spent, as plain data
    accountant   epsilon of a ledger, a stop before the budget is exceeded, the noise that a plan needs
    noise        noise that its client alone can reproduce
    mechanisms   sums of clipped contributions with noise: diagonal Grams
    gradients    DP-SGD: clipped per-sample gradients with noise
    feasibility  how many samples a private Gram takes

The accountant needs `pip install 'fedbraid[privacy]'`; nothing else here does.
"""

from fedbraid.privacy.accountant import admit, epsilon, noise_multiplier
from fedbraid.privacy.feasibility import GramPlan, relative_error, samples_needed, statement
from fedbraid.privacy.gradients import (
    ClippedGradient,
    clipped_gradient,
    clipped_gradient_at_once,
    poisson_sample,
    private_gradient,
)
from fedbraid.privacy.ledger import RELATION, Budget, Ledger, Release
from fedbraid.privacy.mechanisms import clipped_sum, norms, release, release_diagonals, squares_by_sample
from fedbraid.privacy.noise import NoiseSource, fresh_secret, noise_generator
from fedbraid.privacy.report import Leaving, check_gram_samples, what_leaves

__all__ = [
    "RELATION",
    "Budget",
    "ClippedGradient",
    "GramPlan",
    "Leaving",
    "Ledger",
    "NoiseSource",
    "Release",
    "admit",
    "check_gram_samples",
    "clipped_gradient",
    "clipped_gradient_at_once",
    "clipped_sum",
    "epsilon",
    "fresh_secret",
    "noise_generator",
    "noise_multiplier",
    "norms",
    "poisson_sample",
    "private_gradient",
    "relative_error",
    "release",
    "release_diagonals",
    "samples_needed",
    "squares_by_sample",
    "statement",
    "what_leaves",
]
