"""Masked rounds: the sum is that of who stayed, no update is seen, and a round that cannot be masked is not summed."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("cryptography", reason="the extra 'secure' is not installed")

from fedbraid.algebra import Tensors
from fedbraid.core import EVALUATE, ImageInput, Model, Outcome, Round
from fedbraid.engine import run
from fedbraid.errors import StoppedRun, UserError
from fedbraid.local.training import Training
from fedbraid.methods import METHODS, Setting, make
from fedbraid.models import Adapter
from fedbraid.quantities import GRAMS, SUM, VALUE, Gives, own
from fedbraid.runtimes.client import Masking, Work
from fedbraid.runtimes.codec import Codec
from fedbraid.runtimes.exchange import Answer
from fedbraid.runtimes.gate import Gate
from fedbraid.runtimes.inprocess import InProcess, in_process
from fedbraid.runtimes.limits import Limits
from fedbraid.runtimes.masked_client import INPUT
from fedbraid.runtimes.server import Rules, Server
from fedbraid.secure import Layout, new_identity
from fedbraid.secure.fixed_point import encode
from fedbraid.testing.numbers import ROUND, SHARED, Squares, holders, squares
from fedbraid.testing.worlds import image_world
from fedbraid.wire import fraction

VALUES = {str(c): (c + 0.5, c / 4) for c in range(5)} | {"5": ()}
"""Numbers whose sums and squares are exact in fixed point; the last client has none."""
NEXT = Round(ROUND.task, "train", 1, 0)
MODEL: Any = SimpleNamespace(device=torch.device("cpu"), input=ImageInput(2))
LOOSE = Rules(quorum=0.5)
MASKING = Masking(threshold=4)
Change = Callable[[Mapping[str, str], Answer], Answer | None]
"""What becomes of an answer on its way, by the question's text."""


class Sums(Squares):
    """Squares of which there can be a dry run, as if of trained values."""

    def gives(self, round: Round, *, lifted: bool = False) -> Gives:
        return super().gives(round, lifted=lifted) if lifted else {"x": VALUE}

    def client_update(self, model: Model, shared: Tensors, data: Any, round: Round) -> Tensors:
        values = getattr(data, "values", (0.0,) * len(data))
        return {"x": torch.tensor(values, dtype=torch.float64) * shared["scale"].double()}


class Carried(InProcess):
    """Parties in memory whose answers may be changed or lost; `carried` holds (step, question's text, answer)."""

    def __init__(self, work: Work, change: Change = lambda _, answer: answer, **options: Any) -> None:
        super().__init__(work, holders(VALUES), holders({"test": (1.0,)}), **options)
        self.change = change
        self.carried: list[tuple[str, Mapping[str, str], Answer]] = []

    def ask(self, questions: Mapping[str, bytes], received: Tensors, round: Round) -> Generator[Answer | None]:
        for found in super().ask(questions, received, round):
            assert found
            text = self._work.codec.text(questions[found.client])
            changed = self.change(text, found)
            if changed is not None:
                self.carried.append((text.get("step", ""), text, changed))
            yield changed


def work_of(phase: Squares | None = None, masking: Masking | None = MASKING) -> Work:
    return Work(squares(phase or Sums()), MODEL, Codec(), masking=masking)


def served(change: Change = lambda _, answer: answer, rules: Rules = LOOSE, **options: Any) -> tuple[Server, Carried]:
    transport = Carried(work_of(), change)
    return Server(transport._work, transport, rules=rules, **options), transport


def losing(step: str, *clients: str) -> Change:
    """From this step on nothing of these clients arrives."""
    steps = ["keys", "shares", INPUT, "confirmation", "reveal"]
    lost = steps[steps.index(step) :]
    return lambda text, answer: None if answer.client in clients and text["step"] in lost else answer


def plain(*clients: str) -> Outcome:
    """The sum of these clients in clear."""
    server = in_process(squares(), MODEL, holders(VALUES), {}, lift_on="client", codec=Codec(torch.float64))
    return server.sum(SHARED, ROUND, clients)


def same(one: Outcome, other: Outcome) -> bool:
    return one.total.keys() == other.total.keys() and all(torch.equal(one.total[k], other.total[k]) for k in one.total)


def test_a_masked_sum_is_the_sum() -> None:
    server, transport = served()
    outcome = server.sum(SHARED, ROUND, list(VALUES))
    assert same(outcome, plain(*VALUES))
    assert outcome.reported == tuple(VALUES)
    assert [step for step, _, _ in transport.carried[::6]] == ["keys", "shares", INPUT, "reveal"]
    assert outcome.values_up == dict.fromkeys(VALUES, 3)
    sizes = {client: sum(len(a.payload) for _, _, a in transport.carried if a.client == client) for client in VALUES}
    assert outcome.bytes_up == sizes
    assert all(size > 0 for size in outcome.bytes_down.values())


@pytest.mark.parametrize("step", ["keys", "shares", INPUT, "reveal"])
@pytest.mark.parametrize("lost", [("0",), ("1", "5"), ("3", "4")])
def test_who_is_lost_costs_itself_the_round_and_nothing_else(step: str, lost: tuple[str, ...]) -> None:
    server, _ = served(losing(step, *lost))
    outcome = server.sum(SHARED, ROUND, list(VALUES))
    stayed = tuple(VALUES) if step == "reveal" else tuple(c for c in VALUES if c not in lost)
    assert outcome.reported == stayed
    assert same(outcome, plain(*stayed))
    missing = {c: f"no answer to the step {step!r} in its time" for c in lost if c not in stayed}
    assert outcome.failed == missing


@pytest.mark.parametrize("step", ["keys", "shares", INPUT, "reveal"])
def test_below_the_threshold_the_run_pauses_and_its_next_attempt_has_other_masks(step: str) -> None:
    server, transport = served(losing(step, "0", "1", "2"))
    with pytest.raises(
        StoppedRun, match=r"3 of 6 clients .*, the threshold is 4; nothing was summed.*client 0: no ans"
    ):
        server.sum(SHARED, ROUND, list(VALUES))
    begun = [text["session"] for _, text, _ in transport.carried]
    transport.change = lambda _, answer: answer
    transport.carried.clear()
    again = Server(transport._work, transport, rules=LOOSE)
    assert same(again.sum(SHARED, ROUND, list(VALUES)), plain(*VALUES))
    assert not {*begun} & {text["session"] for _, text, _ in transport.carried}


def test_the_quorum_counts_where_it_is_more_than_the_threshold() -> None:
    server, _ = served(losing("keys", "0"), rules=Rules(quorum=1.0))
    with pytest.raises(StoppedRun, match="5 of 6 clients advertised keys, the threshold is 6"):
        server.sum(SHARED, ROUND, list(VALUES))


def test_nothing_tells_of_a_single_update() -> None:
    server, transport = served()
    server.sum(SHARED, ROUND, list(VALUES))
    codec = transport._work.codec
    inputs = {a.client: codec.decode(a.payload).tensors[INPUT] for s, _, a in transport.carried if s == INPUT}
    assert {len(words) for words in inputs.values()} == {32 + 8 * 3}
    again, other = served()
    again.sum(SHARED, ROUND, list(VALUES))
    for _, text, answer in other.carried:
        if text["step"] == INPUT:
            words = codec.decode(answer.payload).tensors[INPUT][32:].numpy().tobytes()
            one = plain(answer.client).total or {
                key: torch.zeros_like(plain("0").total[key]) for key in plain("0").total
            }
            clear = encode(Layout.of(one), one, clients=6).tobytes()
            shared_bytes = sum(a == b for a, b in zip(words, clear, strict=True))
            assert shared_bytes <= 4, "masked words look like the plain ones"
            assert words != inputs[answer.client][32:].numpy().tobytes(), "two sums have the same masks"


def test_two_sums_of_a_round_have_the_same_clients() -> None:
    server, transport = served()
    first = server.sum(SHARED, ROUND, list(VALUES))
    killed = Server(transport._work, transport, rules=LOOSE)  # before its state was saved
    assert same(killed.sum(SHARED, ROUND, list(VALUES)), first)
    transport.change = losing(INPUT, "2")
    with pytest.raises(StoppedRun, match=r"opened one of this round before, with other clients \(missing now: '2'\)"):
        Server(transport._work, transport, rules=LOOSE).sum(SHARED, ROUND, list(VALUES))
    outcome = Server(transport._work, transport, rules=LOOSE).sum({"scale": torch.tensor([3.0])}, NEXT, list(VALUES))
    assert outcome.reported == ("0", "1", "3", "4", "5")


def test_a_number_without_room_is_a_fault_and_no_wrong_sum() -> None:
    class Large(Sums):
        def client_update(self, model: Model, shared: Tensors, data: Any, round: Round) -> Tensors:
            return {"x": super().client_update(model, shared, data, round)["x"] * (1e9 if data.client == "3" else 1)}

    transport = Carried(work_of(Large()))
    outcome = Server(transport._work, transport, rules=LOOSE).sum(SHARED, ROUND, list(VALUES))
    assert "'squares' is " in outcome.failed["3"]
    assert "does not fit a masked sum of 6 clients" in outcome.failed["3"]
    assert same(outcome, plain("0", "1", "2", "4", "5"))


@pytest.mark.parametrize("step", ["keys", "shares", INPUT, "reveal"])
@pytest.mark.parametrize("kind", ["junk", "other parts", "another's", "fault"])
def test_what_is_no_message_of_its_step_costs_its_sender_alone(step: str, kind: str) -> None:
    first: dict[str, Answer] = {}

    def change(text: Mapping[str, str], answer: Answer) -> Answer:
        if text["step"] != step or answer.client != "4":
            first.setdefault(text["step"], answer)
            return answer
        if kind == "junk":
            return Answer("4", b"\xff" * 64)
        if kind == "another's":
            return Answer("4", first[step].payload)
        if kind == "fault":
            return Answer("4", fault="died")
        about = {"client": "4", "to": text["to"], "is": "step", "parts": json.dumps({"0": "AAAA"})}
        return Answer("4", Codec().encode({INPUT: torch.zeros(8, dtype=torch.uint8)}, about))

    server, _ = served(change)
    outcome = server.sum(SHARED, ROUND, list(VALUES))
    stayed = tuple(VALUES) if step == "reveal" else ("0", "1", "2", "3", "5")
    assert outcome.reported == stayed
    assert same(outcome, plain(*stayed))
    if step != "reveal":
        assert ("4" in outcome.failed) == (kind == "fault")
        assert ("4" in outcome.refused) == (kind != "fault")


def test_who_failed_is_asked_again_for_the_same_step() -> None:
    once: set[str] = set()

    def change(text: Mapping[str, str], answer: Answer) -> Answer:
        if answer.client == "2" and text["step"] == "keys" and not once:
            once.add("2")
            return Answer("2", fault="busy")
        return answer

    server, _ = served(change, rules=Rules(quorum=1.0, retries=1))
    assert same(server.sum(SHARED, ROUND, list(VALUES)), plain(*VALUES))


def test_a_round_ends_in_time_without_who_is_late() -> None:
    now = 0.0

    def change(text: Mapping[str, str], answer: Answer) -> Answer:
        nonlocal now
        now += 7.9 if text["step"] == INPUT and answer.client == "4" else 0.01
        return answer

    server, _ = served(change, rules=Rules(deadline=10.0, quorum=0.5), clock=lambda: now)
    outcome = server.sum(SHARED, ROUND, list(VALUES))
    assert outcome.reported == ("0", "1", "2", "3", "4")  # the fifth came when the step was over
    assert outcome.failed == {"5": "no answer to the step 'input' in its time"}
    assert now < 10


def test_where_nobody_has_samples_nobody_has_reported() -> None:
    work = work_of()
    transport = InProcess(work, holders(dict.fromkeys("abcd", ())), {})
    outcome = Server(work, transport).sum(SHARED, ROUND, list("abcd"))
    assert (dict(outcome.total), outcome.reported, outcome.idle) == ({}, (), ("a", "b", "c", "d"))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("count", torch.tensor(-5), "count: not below zero: -25"),
        ("triangle/w", torch.tensor([1.0, 2.0, 1.0]), "triangle/w: no eigenvalue below zero"),
    ],
)
def test_a_sum_that_cannot_be_is_not_used(name: str, value: torch.Tensor, message: str) -> None:
    class False_(Sums):
        def gives(self, round: Round, *, lifted: bool = False) -> Gives:
            return {**super().gives(round, lifted=lifted), **GRAMS}

        def lift(self, shared: Tensors, update: Tensors, round: Round):
            return type(total := super().lift(shared, update, round))({**total, name: value})

    transport = Carried(work_of(False_()))
    server = Server(transport._work, transport, rules=LOOSE, gate=Gate(transport._work, Limits()))
    with pytest.raises(StoppedRun, match=f"the sum of 6 clients cannot be: {message}"):
        server.sum(SHARED, ROUND, list(VALUES))


def test_messages_are_signed_where_clients_have_identities() -> None:
    pairs = {client: new_identity() for client in VALUES}
    work = work_of(masking=Masking(4, {client: public for client, (_, public) in pairs.items()}))
    own = {client: private for client, (private, _) in pairs.items()}
    transport = Carried(work, identities=own)
    outcome = Server(work, transport, rules=LOOSE).sum(SHARED, ROUND, list(VALUES))
    assert same(outcome, plain(*VALUES))
    assert [step for step, _, _ in transport.carried[::6]] == ["keys", "shares", INPUT, "confirmation", "reveal"]
    stranger = Carried(work, identities={**own, "3": new_identity()[0]})
    outcome = Server(work, stranger, rules=LOOSE).sum(SHARED, ROUND, list(VALUES))
    assert "signs with the private key of its identity" in outcome.failed["3"]
    assert same(outcome, plain("0", "1", "2", "4", "5"))


def test_test_samples_of_several_parties_are_counted_under_masks() -> None:
    work = work_of()
    transport = InProcess(work, holders(VALUES), holders(VALUES))
    carried: list[Mapping[str, str]] = []
    ask = transport.ask

    def watched(questions: Mapping[str, bytes], *rest: Any) -> Generator[Answer | None]:
        carried.extend(work.codec.text(question) for question in questions.values())
        return ask(questions, *rest)

    transport.ask = watched  # type: ignore[method-assign]
    outcome = Server(work, transport).sum(SHARED, Round(ROUND.task, EVALUATE, 0, 0), list(VALUES))
    assert same(outcome, plain(*VALUES))
    assert all("step" in text for text in carried)


PLAN = Training(epochs=1, batch_size=16, lr=1e-3, augment=False)
SUMS = [
    ("lorm", "lora"),
    ("fedavg", "full"),
    ("fisheravg", "lora"),
    ("derpp", "lora"),
    ("afl", "none"),
    ("fed_sb", "lora_xs"),
]


@pytest.mark.parametrize(("name", "adapter"), SUMS)
def test_a_masked_run_is_the_clear_one_to_fixed_point(name: str, adapter: Any) -> None:
    options, world = METHODS[name](), image_world()
    adapted = options.adapter(Adapter(adapter, rank=2, blocks="0-1"))
    method = make(options, Setting(adapted, PLAN, 1))

    def events(**how: Any) -> list[Any]:
        model = world.model(adapted)
        server = in_process(method, model, world.clients, world.evaluators, codec=Codec(torch.float64), **how)
        return list(run(method, model, world.tasks, server, seed=0, evaluate="task"))

    here, hidden = events(lift_on="client"), events(masking=Masking(), limits=Limits())
    one, other = next((a, b) for a, b in zip(here, hidden, strict=True) if a.outcome.reported)
    first, masked, gives = one.outcome, other.outcome, method.phase(one.round).gives(one.round, lifted=True)
    assert masked.reported == ("a", "b", "c")
    assert first.total.keys() == masked.total.keys()
    for key, value in first.total.items():
        worst = (value.double() - masked.total[key].double()).abs().max().item()
        bits = fraction(key, gives)
        assert bits
        assert worst <= 3 * 2.0 ** -(bits + 1) + 1e-14 * value.double().abs().max().item(), key
    for one, other in zip(here, hidden, strict=True):
        expected, found = (
            torch.cat([v.double().flatten() for v in s.shared.values()]) for s in (one.state, other.state)
        )
        assert (expected - found).norm() <= 1e-3 * expected.norm()
    assert hidden[-1].test.total.keys() == here[-1].test.total.keys()


def test_what_is_one_clients_own_is_no_sum() -> None:
    class Own(Sums):
        def gives(self, round: Round, *, lifted: bool = False) -> Gives:
            return {**super().gives(round, lifted=lifted), **own({"x": SUM})}

        def lift(self, shared: Tensors, update: Tensors, round: Round):
            return type(total := super().lift(shared, update, round))({**total, "client/a/x": update["x"].sum()})

    transport = Carried(work_of(Own()))
    with pytest.raises(UserError, match="'client/a/x', which is one client's own"):
        Server(transport._work, transport).sum(SHARED, ROUND, list(VALUES))
