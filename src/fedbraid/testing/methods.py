"""The contract of a method: what every method must do whatever it computes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from fedbraid.algebra import Statistic, Tensors, without
from fedbraid.core import KEEP, Event, Method, Model, Phase, Round, State
from fedbraid.engine import Start, run, schedule
from fedbraid.local.training import Training
from fedbraid.methods import Options, Setting, make
from fedbraid.models import AdaptedModel, Adapter, LanguageModel
from fedbraid.quantities import Gives
from fedbraid.runtimes.inprocess import in_process
from fedbraid.runtimes.limits import Limits
from fedbraid.testing.language import random_llama
from fedbraid.testing.worlds import World, image_world, language_world, random_bert, text_world
from fedbraid.wire import undeclared

PLAN = Training(epochs=1, batch_size=16, lr=1e-3, augment=False)


def check_method(options: Options, *, adapter: str = "", rounds: int = 2) -> None:
    """Runs the method in tiny worlds of its modalities and raises `AssertionError` where a promise is broken.

    - It finishes a stream of unequal tasks with a client that lacks a class and one that sits out, in finite values.
    - Phases are pure: what they are given stays as it is, and torch's global generator too.
    - Equal seeds give equal bits, on a used model and after stops on the way.
    - All that it sends is declared, also lifted; the gate finds the schema of its updates, lets all of them pass, and
      changes no bit.
    - A task of which nobody has data ends nothing, and values stay finite.

    `adapter` is the kind of adapter to check with; the method's first where nothing is given.
    """
    about = options.about
    adapted = options.adapter(Adapter(adapter or about.adapters[0], rank=2, blocks="0-1"))  # type: ignore[arg-type]
    setting = Setting(adapted, PLAN, rounds)
    with TemporaryDirectory() as folder:
        for modality in about.modalities:
            if modality == "language" and setting.adapter.kind == "none":
                continue  # a language model without an adapter has nothing to train
            build = _world_of(modality, Path(folder) / modality)
            world = build(joined=about.centralised)
            placed = replace(setting, **world.learned)
            if about.centralised:
                placed = replace(placed, test_offsets=(0, 1, world.stream.offsets[-1]))
            _check_in(world, make(options, placed), placed.adapter)
            if not about.centralised:
                _check_values(_Run(build(without_task=1), make(options, placed), placed.adapter).events())


def _world_of(modality: str, folder: Path) -> Callable[..., World]:
    """What builds the world of a modality, for a model in the folder."""
    if modality == "image":
        return image_world
    if modality == "language":
        return partial(language_world, random_llama(folder))
    return partial(text_world, random_bert(folder))


def _check_in(world: World, method: Method, adapter: Adapter) -> None:
    phases = {name: _Watched(phase) for name, phase in method.phases.items()}
    watched = replace(method, phases=phases, evaluate=_Watched(method.evaluate))
    generator = torch.get_rng_state()
    first = _Run(world, watched, adapter, Limits())
    events = first.events()
    assert torch.equal(torch.get_rng_state(), generator), "the run drew from torch's global generator"
    assert [e.round for e in events] == [r for r, _ in schedule(method, world.tasks, 0)], "rounds are missing"
    _check_values(events)
    torch.manual_seed(1)
    first.limits = None
    again = first.events()  # on the model that the first run has used, without a gate
    torch.set_rng_state(generator)
    _same(events, again, "equal seeds gave other values")
    for stop in range(0, len(events) - 1, max(1, len(events) // 4)):
        rest = _Run(world, method, adapter).events(after=first.stops[stop])
        _same(events[stop + 1 :], rest, f"a run resumed after {events[stop].round} ends differently")


def _check_values(events: list[Event]) -> None:
    for event in events:
        for key, value in {**event.state.shared, **event.state.server}.items():
            assert torch.isfinite(value).all(), f"{key} is not finite after {event.round}"
        for key, value in event.state.shared.items():
            kinds = (torch.float32, torch.int64, torch.uint8)
            assert value.dtype in kinds, f"shared {key} is {value.dtype}; clients would receive it rounded"
    last = [event for event in events if event.round.task == events[-1].round.task]
    assert any(event.test for event in last), "no round of the last task is evaluated"


@dataclass
class _Run:
    """A run of a method in a world; `stops` holds after every round what a checkpoint would."""

    world: World
    method: Method
    adapter: Adapter
    limits: Limits | None = None

    def __post_init__(self) -> None:
        self.model: AdaptedModel | LanguageModel = self.world.model(self.adapter)
        self.stops: list[tuple[Start, str, dict[str, Tensor]]] = []

    def events(self, *, after: tuple[Start, str, dict[str, Tensor]] | None = None) -> list[Event]:
        start, memory, kept = after or (None, "null", {})
        known: dict[str, Any] = {"memory": json.loads(memory), "kept": kept, "limits": self.limits}
        runtime = in_process(self.method, self.model, self.world.clients, self.world.evaluators, **known)
        found: list[Event] = []
        for event in run(self.method, self.model, self.world.tasks, runtime, seed=0, start=start):
            found.append(event)
            state = State(_copy(event.state.shared), _copy(event.state.server))
            self.stops.append((Start(event.number + 1, state), json.dumps(runtime.memory()), _copy(runtime.kept())))
        return found


@dataclass(frozen=True)
class _Watched:
    """A phase that checks that what it is given stays as it is."""

    phase: Phase

    def __getattr__(self, name: str) -> Any:
        return getattr(self.phase, name)

    def client_update(self, model: Model, shared: Tensors, data: Any, round: Round) -> Tensors:
        before, memory = _copy(shared), _copy(data.memory)
        update = self.phase.client_update(model, shared, data, round)
        _declared(update, self.phase.gives(round), f"client_update of {round}")
        _unchanged(before, shared, f"client_update of {round} changed what it received")
        _unchanged(memory, data.memory, f"client_update of {round} changed the client's memory in place")
        return update

    def lift(self, shared: Tensors, update: Tensors, round: Round) -> Statistic:
        before = _copy(update)
        statistic = self.phase.lift(shared, update, round)
        _declared(statistic, self.phase.gives(round, lifted=True), f"lift of {round}")
        _unchanged(before, update, f"lift of {round} changed the update")
        return statistic

    def server_update(self, model: Model, state: State, total: Statistic, round: Round) -> State:
        before = State(_copy(state.shared), _copy(state.server))
        after = self.phase.server_update(model, state, total, round)
        _unchanged(before.shared, state.shared, f"server_update of {round} changed the shared state in place")
        _unchanged(before.server, state.server, f"server_update of {round} changed the server's state in place")
        return after


def _declared(tensors: Tensors, gives: Gives, what: str) -> None:
    strange = undeclared(without(tensors, KEEP), gives)
    assert not strange, f"{what} sends {strange}, which the method does not declare"


def _same(events: list[Event], others: list[Event], fault: str) -> None:
    assert [e.number for e in events] == [e.number for e in others], fault
    for one, other in zip(events, others, strict=True):
        _unchanged(one.state.shared, other.state.shared, f"{fault} (after {one.round})")
        _unchanged(one.state.server, other.state.server, f"{fault} (on the server, after {one.round})")


def _unchanged(before: Mapping[str, Tensor], after: Mapping[str, Tensor], fault: str) -> None:
    assert before.keys() == after.keys(), f"{fault}: {sorted(before.keys() ^ after.keys())[:3]}"
    for key, value in before.items():
        assert value.dtype == after[key].dtype, f"{fault}: {key}"
        assert torch.equal(value, after[key]), f"{fault}: {key}"


def _copy(tensors: Tensors) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in tensors.items()}
