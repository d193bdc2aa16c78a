"""Whoever is lost and when: the sum is that of the survivors' words, bit for bit, or there is none."""

import random
from itertools import chain, combinations

import pytest
import torch

from fedbraid.errors import UserError
from fedbraid.secure import BelowThreshold, masked_sum, server
from fedbraid.secure.inprocess import STEPS
from fedbraid.secure.messages import mark, marked


def subsets(items):
    return chain.from_iterable(combinations(items, size) for size in range(len(items) + 1))


def check(world, lost) -> bool:
    """Whether there was a sum, which then was the right one."""
    survivors = tuple(c for c in world.session.clients if lost.get(c) not in ("keys", "shares", "input"))
    if len(world.session.clients) - len(lost) < world.session.needed:
        with pytest.raises(BelowThreshold, match="nothing was summed"):
            masked_sum(world.session, world.updates, identities=world.identities, lost=lost)
        return False
    found = masked_sum(world.session, world.updates, identities=world.identities, lost=lost)
    expected = world.plain(survivors)
    assert found.survivors == survivors
    assert found.refused == {}
    assert {*found.total} == {*expected}
    assert all(torch.equal(found.total[key], expected[key]) for key in expected)
    return True


@pytest.mark.parametrize("step", STEPS)
def test_every_subset_of_five_lost_at_every_step(world, step: str) -> None:
    cohort = world(5, 3)
    sums = [check(cohort, dict.fromkeys(gone, step)) for gone in subsets(cohort.session.clients)]
    assert sums.count(True) == 1 + 5 + 10


def test_every_subset_of_five_lost_with_identities(world) -> None:
    cohort = world(5, signed=True)
    sums = [check(cohort, dict.fromkeys(gone, "input")) for gone in subsets(cohort.session.clients)]
    assert sums.count(True) == 1 + 5


def test_random_patterns(world) -> None:
    draws, sums = random.Random(0), 0
    for number in range(200):
        n = draws.randint(3, 12)
        cohort = world(n, draws.choice([None, max(3, n // 2 + 1)]), signed=number % 4 == 0, seed=number)
        rate = draws.random() / 2
        lost = {name: draws.choice(STEPS) for name in cohort.session.clients if draws.random() < rate}
        sums += check(cohort, lost)
    assert 80 < sums < 190


def test_the_sum_is_near_that_of_the_updates(world) -> None:
    cohort = world(9)
    found = masked_sum(cohort.session, cohort.updates).total
    for key in ("gram/layer", "mean", "half"):
        exact = sum(cohort.updates[name][key].double() for name in cohort.session.clients)
        assert (found[key] - exact).abs().max() <= 9 * 2.0**-25 + 1e-12  # the reference is rounded itself
    assert found["count"] == sum(cohort.updates[name]["count"] for name in cohort.session.clients)


def test_the_order_of_arrival_does_not_matter(world, steps) -> None:
    run = steps(world(6, 4))
    dealt = run.dealt()
    messages = list(run.inputs(dealt.boxes).items())[:5]
    sums = [server.collect_inputs(dealt, order).words.tolist() for order in (messages, messages[::-1])]
    assert sums[0] == sums[1]


def test_only_the_threshold_of_reveals_is_needed_and_any_will_do(world, steps) -> None:
    run = steps(world(6, 4))
    inputs = run.summed(run.world.session.clients[2])
    reveals = run.reveals(inputs)
    expected = run.world.plain(inputs.survivors)
    for chosen in combinations(reveals, 4):
        found = server.unmask(inputs, {name: reveals[name] for name in chosen})
        assert all(torch.equal(found.total[key], expected[key]) for key in expected)


def test_a_late_input_of_a_dropout_stays_closed(world, steps) -> None:
    """Its common masks are known by then; of the seed of its own mask no share has been given away."""
    run = steps(world(5, 3))
    session, dealt = run.world.session, run.dealt()
    messages, late = run.inputs(dealt.boxes), session.clients[1]
    inputs = server.collect_inputs(dealt, [(name, m) for name, m in messages.items() if name != late])
    reveals = run.reveals(inputs)
    assert late not in server.unmask(inputs, reveals).survivors
    for holder, shares in reveals.items():
        for dealer, share in shares.items():
            seed, key = (marked(dealt.boxes[holder][dealer], kind) for kind in ("seed", "key"))
            given = [mark(session, kind, dealer, holder, share) for kind in ("seed", "key")]
            assert (given[0] == seed, given[1] == key) == (dealer != late, dealer == late)


def test_what_is_lost_has_a_name(world) -> None:
    cohort = world()
    with pytest.raises(UserError, match="they are keys, shares, input, confirmation, reveal"):
        masked_sum(cohort.session, cohort.updates, lost={cohort.session.clients[0]: "dinner"})
