"""Masked sums: exactness under dropouts, error against its bound, how random inputs look, and what all of it costs.

    python benchmarks/masked.py [--quick] [--patterns 1000] [--clients 10,100] [--words 100000,1000000]

Prints, with one thread,

    dropouts   random cohorts of 3 to 12 clients that lose some at random steps: sums that differ in any bit from that
               of the survivors' words (must be 0), and refusals, all of them below the threshold (others must be 0)
    error      the largest error of a decoded sum of n clients, as a share of its bound n 2^-25
    random     p-values of chi-square tests that the bytes of one client's input are uniform, with fresh keys
    cost       processor time and bytes of one client (the median of all), and the server's time to unmask the sum
               where a tenth of the clients is lost after sharing
    run        LoRM on digits with 5 clients in clear and masked: processor time a round of all parties together, bytes
               of a client a round, how far the final states lie apart
    methods    for every method whose messages are sums, how far the state after the first round and the final one lie
               from those in clear (only with --methods)
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedbraid import config
from fedbraid.core import Event, State
from fedbraid.errors import UserError
from fedbraid.experiment import build
from fedbraid.masking import summable
from fedbraid.methods import METHODS
from fedbraid.secure import BelowThreshold, Layout, Session, client, masked_sum, server
from fedbraid.secure.fixed_point import decode, encode
from fedbraid.secure.inprocess import STEPS
from fedbraid.secure.masks import stream

RUN = [
    "data.train_per_class=50",
    "data.test_per_class=10",
    "stream.tasks=2",
    "partition.clients=5",
    "training.rounds=2",
    "training.epochs=1",
    "run.threads=1",
]
"""The run that is measured, but for its mode."""


def names(count: int) -> tuple[str, ...]:
    return tuple(f"client {i:03}" for i in range(count))


def plain(session: Session, updates: Mapping[str, Mapping[str, Tensor]], clients: tuple[str, ...]) -> dict[str, Tensor]:
    """The sum without masks."""
    words = sum(encode(session.layout, updates[name], clients=len(session.clients)) for name in clients)
    return decode(session.layout, words)


def dropouts(patterns: int) -> None:
    """Counts wrong sums and refusals over random cohorts and losses."""
    draws, numbers = random.Random(0), torch.Generator().manual_seed(0)
    sums, wrong, refused, unexpected = 0, 0, 0, 0
    for number in range(patterns):
        n = draws.randint(3, 12)
        cohort = names(n)
        updates = {
            name: {"x": 100 * torch.randn(40, generator=numbers), "n": torch.tensor(draws.randrange(10**12))}
            for name in cohort
        }
        threshold = draws.choice([None, max(3, n // 2 + 1)])
        session = Session("benchmark", str(number), cohort, Layout.of(updates[cohort[0]]), threshold)
        rate = draws.random() / 2
        lost = {name: draws.choice(STEPS) for name in cohort if draws.random() < rate}
        survivors = tuple(name for name in cohort if lost.get(name) not in STEPS[:3])
        enough = n - len(lost) >= session.needed
        try:
            found = masked_sum(session, updates, lost=lost)
        except BelowThreshold:
            refused, unexpected = refused + 1, unexpected + enough
            continue
        expected = plain(session, updates, survivors)
        equal = found.survivors == survivors and all(torch.equal(found.total[key], expected[key]) for key in expected)
        sums, wrong, unexpected = sums + 1, wrong + (not equal), unexpected + (not enough)
    print(f"dropouts | {patterns} patterns, {sums} sums, {wrong} wrong | {refused} refused, {unexpected} unduly")


def error(clients: list[int], entries: int) -> None:
    """The largest error against the exactly rounded sum."""
    draws = torch.Generator().manual_seed(0)
    for n in clients:
        updates = {name: {"x": torch.randn(entries, generator=draws, dtype=torch.float64)} for name in names(n)}
        session = Session("benchmark", "error", names(n), Layout.of(updates[names(n)[0]]))
        found = masked_sum(session, updates).total["x"] if n <= 30 else plain(session, updates, names(n))["x"]
        columns = torch.stack([update["x"] for update in updates.values()], dim=1).tolist()
        exact = [math.fsum(column) for column in columns]
        worst = (found - torch.tensor(exact, dtype=torch.float64)).abs().max().item()
        print(f"error    | {n:>4} clients: {worst:.2e} of {n * 2**-25:.2e} allowed ({worst / (n * 2**-25):.0%})")


def looks_random(words: int) -> None:
    """p-values for several updates of one of three clients."""
    for title, x in (("zeros", torch.zeros(words)), ("ones", torch.ones(words)), ("normal", torch.randn(words))):
        cohort = Cohort(3, {"x": x})
        columns = np.frombuffer(cohort.mask("client 001"), np.uint8, offset=32).reshape(-1, 8)
        found = [p_value(columns.ravel()), *(p_value(column) for column in columns.T)]
        places = " ".join(f"{p:.2f}" for p in found[1:])
        print(f"random   | {title:>6}: p = {found[0]:.3f} over all bytes; by place {places}")


def p_value(sample: np.ndarray) -> float:
    """How often uniform bytes are at least this uneven: the upper tail of chi-square with 255 degrees of freedom."""
    expected = len(sample) / 256
    statistic = ((np.bincount(sample, minlength=256) - expected) ** 2 / expected).sum()
    return torch.special.gammaincc(torch.tensor(255 / 2).double(), torch.tensor(statistic / 2).double()).item()


class Cohort:
    """Clients with one update, after sharing; keeps seconds and bytes of each."""

    def __init__(self, clients: int, update: Mapping[str, Tensor]) -> None:
        self.update, self.names = update, names(clients)
        self.session = Session("benchmark", "cost", self.names, Layout.of(update))
        self.seconds, self.up, self.down = (dict.fromkeys(self.names, 0.0) for _ in range(3))
        self.stages: dict[str, Any] = {}
        advertised = {name: self.step(name, client.advertise, self.session, name, received=b"") for name in self.names}
        keys = server.collect_keys(self.session, advertised)
        shares = {name: self.step(name, client.share, self.stages[name], received=advertised) for name in self.names}
        self.dealt = server.collect_shares(keys, shares)

    def step(self, name: str, work: Callable[..., Any], *parts: Any, received: Any) -> Any:
        """The client's message; notes what the step took."""
        begin = time.process_time()
        self.stages[name], message = work(*parts, received) if received else work(*parts)
        self.seconds[name] += time.process_time() - begin
        self.up[name] += size(message)
        self.down[name] += size(received)
        return message

    def mask(self, name: str) -> bytes:
        return self.step(name, client.mask, self.stages[name], self.update, received=self.dealt.boxes[name])

    def reveal(self, name: str, inputs: server.Inputs) -> dict[str, bytes]:
        begin = time.process_time()
        shares = client.reveal(client.confirm(self.stages[name], inputs.survivors, inputs.dropouts)[0])
        self.seconds[name] += time.process_time() - begin
        self.up[name] += size(shares)
        self.down[name] += sum(len(listed.encode()) for listed in self.names)
        return shares


def size(message: Any) -> int:
    """Bytes of a message and of the names in it."""
    if isinstance(message, bytes):
        return len(message)
    return sum(len(name.encode()) + len(value) for name, value in message.items())


def cost(clients: int, words: int) -> None:
    """Measures and prints one setting; inputs are added one by one, since a hundred would not fit into memory."""
    update = {"x": torch.randn(words, generator=torch.Generator().manual_seed(0))}
    cohort = Cohort(clients, update)
    stay = cohort.names[clients // 10 :]
    inputs = server.collect_inputs(cohort.dealt, ((name, cohort.mask(name)) for name in stay))
    reveals = {name: cohort.reveal(name, inputs) for name in stay}
    begin = time.process_time()
    found = server.unmask(inputs, reveals)
    unmasking = time.process_time() - begin
    one = encode(cohort.session.layout, update, clients=clients)
    if not torch.equal(found.total["x"], decode(cohort.session.layout, one * np.uint64(len(stay)))["x"]):
        raise SystemExit("the sum is wrong")
    seconds, up, down = (median(kept[name] for name in stay) for kept in (cohort.seconds, cohort.up, cohort.down))
    print(
        f"cost     | {clients:>4} {words:>9} | {seconds:8.3f} {up / 1e6:9.3f} {down / 1e6:9.3f} {4 * words / 1e6:9.3f} "
        f"| {unmasking:8.2f}",
        flush=True,
    )


def run_of(settings: list[str]) -> tuple[list[Event], float]:
    """(the rounds of a run in which clients were asked, processor seconds a round)."""
    begin = time.process_time()
    events = [event for event in build(config.read("", settings)).events() if event.outcome.bytes_down]
    return events, (time.process_time() - begin) / len(events)


def runs() -> None:
    """Prints what a whole run costs in clear and masked; the first, which loads everything, is not counted."""
    run_of([*RUN, "training.rounds=1", "stream.tasks=1"])
    last: dict[str, State] = {}
    for mode, masked in (("clear", "false"), ("masked", "true")):
        events, seconds = run_of([*RUN, f"secure.masked={masked}"])
        up, down = (median(sum(size(event).values()) / 5 / 1e6 for event in events) for size in (sent, received))
        last[mode] = events[-1].state
        print(f"run      | {mode:>6}: {seconds:.2f} s a round, {up:.3f} MB up, {down:.3f} MB down a client and round")
    print(f"run      | final states are {apart(last['clear'], last['masked']):.1e} apart")


def methods() -> None:
    """Prints for every method of sums how far a masked run lies from the clear one."""
    for name in summable():
        if "image" not in METHODS[name].about.modalities:
            continue
        settings = [*RUN, "data.train_per_class=10", f"method.name={name}", "run.evaluate=task"]
        try:
            clear, masked = (run_of([*settings, f"secure.masked={mode}"])[0] for mode in ("false", "true"))
        except UserError as error:
            print(f"methods  | {name:>12}: {error}")
            continue
        first, final = (apart(clear[place].state, masked[place].state) for place in (0, -1))
        print(f"methods  | {name:>12}: {first:.1e} after the first round, {final:.1e} at the end", flush=True)


def sent(event: Event) -> Mapping[str, int]:
    return event.outcome.bytes_up


def received(event: Event) -> Mapping[str, int]:
    return event.outcome.bytes_down


def apart(one: State, other: State) -> float:
    """The norm of the difference of all that is no whole number, beside the norm of that."""
    parts = [(one.shared, other.shared), (one.server, other.server)]
    pairs = [(a[key].double(), b[key].double()) for a, b in parts for key in a if a[key].is_floating_point()]
    difference = sum((x - y).square().sum().item() for x, y in pairs)
    return math.sqrt(difference / sum(x.square().sum().item() for x, _ in pairs))


def speed(words: int) -> None:
    begin = time.process_time()
    for i in range(5):
        stream(bytes([i]) * 32, words)
    print(f"masks    | {5 * words / (time.process_time() - begin) / 1e6:.0f} million words a second")


def listed(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description="Masked sums: exactness, error, randomness, cost.")
    parser.add_argument("--quick", action="store_true", help="100 patterns, 10 clients, 100,000 words")
    parser.add_argument("--patterns", type=int)
    parser.add_argument("--clients", type=listed)
    parser.add_argument("--words", type=listed)
    parser.add_argument("--methods", action="store_true", help="all methods of sums in clear and masked, and no more")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.methods:
        methods()
        return
    dropouts(given.patterns or (100 if given.quick else 1000))
    error([3, 10, 30] if given.quick else [3, 10, 30, 100, 1000], entries=2000)
    looks_random(100_000 if given.quick else 1_000_000)
    speed(1_000_000)
    print("         |                | client                                 | server, a tenth lost")
    print("         |    n     words |  seconds     MB up   MB down  MB plain |  seconds")
    for clients in given.clients or ([10] if given.quick else [10, 100]):
        for words in given.words or ([100_000] if given.quick else [100_000, 1_000_000]):
            cost(clients, words)
    runs()


if __name__ == "__main__":
    main()
