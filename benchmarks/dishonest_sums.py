"""Attacks on masked sums, through the programs of four sites: a second sum that lacks one of them.

The server is after what `west` has sent. Where it gets two sums that differ by west, their difference is west's update.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from dishonest_budgets import PRIVATE, TERMS, over, round_of
from dishonest_questions import update
from dishonest_sites import CLIENTS, Target, World, attack

sys.path.append(str(Path(__file__).parent.parent / "tests"))  # where servers lie to clients in memory
from lying_servers import Lie, Lied, naming, truth

from fedbraid.algebra import Tensors
from fedbraid.config import Config
from fedbraid.core import Outcome, Round, Task
from fedbraid.errors import StoppedRun
from fedbraid.experiment import Experiment
from fedbraid.runtimes.client import Masking, Work
from fedbraid.runtimes.codec import Message
from fedbraid.runtimes.delivery import digest_of, digest_of_all
from fedbraid.runtimes.exchange import Answer
from fedbraid.runtimes.masked_client import INPUT
from fedbraid.runtimes.masked_state import OnDisk
from fedbraid.runtimes.opened_sums import OpenedSum, Summand
from fedbraid.runtimes.server import Rules, Server

SUMS = "masked sums"
VICTIM = "west"
OTHERS = tuple(client for client in CLIENTS if client != VICTIM)
MASKED = ("secure.masked=true", "training.rounds=2", "data.train_per_class=5")
MEASURED = ("adapter.kind=none", "secure.masked=true", "data.train_per_class=5")
"""A method that trains nothing: its sums are the same in every round."""


class Programs:
    """The sites of a federation, with nothing but bytes between them and the server."""

    evaluators = ()

    def __init__(self, work: Work, sites: Mapping[str, Target], greeting: bytes) -> None:
        self._work = work
        self._sites = sites
        self.clients = sorted(sites)
        for site in sites.values():
            site.greet(greeting)

    def ask(self, questions: Mapping[str, bytes], received: Tensors, round: Round) -> Generator[Answer | None]:  # noqa: ARG002
        for client, asked in questions.items():
            came = self._sites[client].answer(asked)
            yield Answer(client, fault=came.code) if came.code else Answer(client, came.content)

    def kept(self) -> Tensors:
        return {}

    def keep(self, client: str, kept: Tensors) -> None: ...
    def close(self) -> None: ...


class Lying(Lied, Programs):
    """The same behind a server that lies."""


class Federation:
    """Four sites in masked mode, and a server that asks them for sums."""

    def __init__(self, world: World, method: str, settings: Sequence[str], **terms: Any) -> None:
        self.world, self.method, self.settings = world, method, settings
        usual = {"modes": ("masked",), "methods": (method,), "least_samples": 1}
        self.sites = {name: world.site(name=name, **{**usual, **terms}) for name in CLIENTS}

    def config(self, *settings: str) -> Config:
        return self.world.config("digits", *self.settings, *settings, method=self.method)

    def begun(self, *settings: str) -> tuple[Experiment, Tensors, Round]:
        experiment, state, round = self.world.begun(self.config(*settings))
        return experiment, state.shared, round

    def sum(
        self,
        *settings: str,
        cohort: Sequence[str] = CLIENTS,
        run: str = "r",
        lie: Lie = truth,
        shared: Callable[[Tensors], Tensors] = dict,
        masking: Masking | None = None,
        **there: Any,
    ) -> Outcome | None:
        """A sum under these settings over a cohort, None where there is none; `there` makes the round another one."""
        experiment, tensors, round = self.begun(*settings)
        work = replace(experiment.work, masking=masking) if masking else experiment.work
        greeting = self.world.sent(experiment.config, name=run)
        transport = Lying(work, self.sites, greeting)
        transport.lie = lie
        server = Server(work, transport, rules=Rules(quorum=0.5), run=run)  # pyright: ignore[reportArgumentType]
        try:
            return server.sum(shared(tensors), replace(round, **there), list(cohort))
        except StoppedRun:
            return None


def stolen(first: Outcome | None, second: Outcome | None) -> str:
    """What a server has of two sums of which one lacks the victim."""
    if first is None or not first.reported:
        return "the honest sum was refused, so the attack shows nothing"
    if second is None:
        return ""
    both = [key for key in first.total if key in second.total and first.total[key].shape == second.total[key].shape]
    apart = [f"{key} {float((first.total[key] - second.total[key]).norm()):.3g}" for key in both]
    return f"a second sum without {VICTIM}; they differ by {', '.join(apart[:3])}"


def second_sum(title: str, method: str, settings: Sequence[str], *more: str, **how: Any) -> None:
    """An attack by a second sum that lacks the victim."""

    @attack(SUMS, title)
    def asked(world: World) -> str:
        sites = Federation(world, method, settings)
        return stolen(sites.sum(), sites.sum(*more, cohort=OTHERS, **how))


def nearly(shared: Tensors) -> Tensors:
    """The same tensors, a last bit apart."""
    name = max(shared)
    return {**shared, name: torch.nextafter(shared[name], torch.tensor(9.0))}


SECOND = Task(1, (0, 2, 4))
second_sum("the same round without one site", "fedit", MASKED)
second_sum("the same round under another name of the run", "fedit", MASKED, run="other")
second_sum("settings that are nearly equal", "fedit", MASKED, "training.lr=0.0030000001")
second_sum("tensors that a last bit tells apart", "fedit", MASKED, shared=nearly)
second_sum("the same statistic in another round", "afl", MEASURED, index=1)
second_sum("the same statistic under another seed", "afl", MEASURED, "run.seed=5", seed=5)
second_sum("the same samples, the order of classes exchanged", "afl", MEASURED, "stream.order=[2,3,0,1]", task=SECOND)
second_sum("the same samples, the names of classes exchanged", "afl", MEASURED, "data.classes=[2,3,0,1]", task=SECOND)
second_sum("the same samples, tasks cut otherwise", "afl", MEASURED, "stream.sizes=[3,1]", task=Task(0, (0, 3)))
second_sum("a part of the same samples", "afl", MEASURED, "data.train_samples=19")
second_sum("the same samples, measured by another seed's cut", "afl", MEASURED, "method.held_out=0.3", run="other")


@attack(SUMS, "the first round named in the input step of the next one")
def named_otherwise(world: World) -> str:
    sites = Federation(world, "fedit", MASKED)
    first = sites.sum()
    _, _, round = sites.begun()
    return stolen(first, sites.sum(cohort=OTHERS, index=1, lie=naming(round, INPUT)))


@attack(SUMS, "the first round named in every other step of the next one")
def named_in_other_steps(world: World) -> str:
    sites = Federation(world, "fedit", MASKED)
    first = sites.sum()
    _, _, round = sites.begun()
    for step in ("keys", "shares", "reveal"):
        if found := stolen(first, sites.sum(cohort=OTHERS, index=1, lie=naming(round, step))):
            return found
    return ""


@attack(SUMS, "the first round once more after twenty other sums")
def many_between(world: World) -> str:
    sites = Federation(world, "fedit", MASKED)
    first = sites.sum()
    for site in sites.sites.values():
        store = OnDisk(site.folder / "holdings" / "r", site.folder)
        for number in range(20):
            store.remember(OpenedSum(Summand(str(number), f"round {number}", str(number)), CLIENTS))
    return stolen(first, sites.sum(cohort=OTHERS))


@attack(SUMS, "one site alone given other tensors, under which its update is known")
def told_otherwise(world: World) -> str:
    sites = Federation(world, "fedit", MASKED)
    _, shared, _ = sites.begun()
    false = {name: torch.zeros_like(tensor) for name, tensor in shared.items()}
    first = sites.sum()
    asked: list[str] = []

    def lie(client: str, message: Message) -> Message:
        if client != VICTIM or message.text["step"] != INPUT:
            return message
        asked.append(client)
        all = digest_of_all({name: digest_of(tensor) for name, tensor in false.items()})
        return Message(false, {**message.text, "same": "[]", "gone": "[]", "first": "yes", "all": all})

    found = sites.sum(lie=lie, index=1)
    if not asked or first is None:
        return "nobody was lied to, so the attack shows nothing"
    return "a sum in which one site computed from other tensors" if found and VICTIM in found.reported else ""


@attack(SUMS, "a masked sum in which one site has two samples, at sites that set a least number")
def few_masked(world: World) -> str:
    sites = Federation(world, "fedit", MASKED, least_samples=20)
    return "a sum over two samples each" if sites.sum("data.train_samples=2") else ""


@attack(SUMS, "a list of opened sums that is damaged, so that a site would not know what it has opened")
def damaged_list(world: World) -> str:
    sites = Federation(world, "fedit", MASKED)
    first = sites.sum()
    for site in sites.sites.values():
        path = site.folder / "opened-sums"
        path.write_bytes(path.read_bytes()[:-7])
    return stolen(first, sites.sum(cohort=OTHERS))


@attack(SUMS, "a budget spent in a masked sum, and once more in clear")
def masked_and_clear(world: World) -> str:
    sites = Federation(world, "fedit", (*MASKED, *PRIVATE), **{**TERMS, "least_samples": 20})
    if sites.sum() is None:
        return "the honest sum was refused, so the attack shows nothing"
    victim = sites.sites[VICTIM]
    given = update(round_of(world, victim, "data.train_per_class=5", name="clear", shift=0.1))
    return "a second round came" if given else over(victim)
