"""The loop: tasks x phases x rounds, as a generator of events.

Logging, checkpoints, early stop, progress and plots are `for` loops over these events; nothing is called back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from fedbraid.core import EVALUATE, Event, Method, Model, Phase, Round, Runtime, State, Task
from fedbraid.progress import track


@dataclass(frozen=True)
class Start:
    """Where a run continues: the number of rounds that are done, and the state after them."""

    done: int
    state: State


def schedule(method: Method, tasks: Sequence[Task], seed: int) -> list[tuple[Round, Phase]]:
    """Every round of a run in order."""
    return [
        (Round(task, name, index, seed), phase)
        for task in tasks
        for name, phase in method.phases.items()
        if phase.tasks(task)
        for index in range(phase.rounds)
    ]


def run(
    method: Method,
    model: Model,
    tasks: Sequence[Task],
    runtime: Runtime,
    *,
    seed: int,
    start: Start | None = None,
    evaluate: Literal["round", "task"] = "round",
) -> Iterator[Event]:
    """One event a finished round. `evaluate` says whether every round's model is tested or a task's last alone."""
    state = start.state if start else State()
    rounds = schedule(method, tasks, seed)
    done = start.done if start else 0
    last_of_task = {round.task.index: number for number, (round, _) in enumerate(rounds)}
    loop = track(rounds[done:], "run", len(rounds) - done)
    for number, (round, phase) in enumerate(loop, start=done):
        cohort = phase.cohort(runtime.clients, round)
        outcome = runtime.sum(state.shared, round, cohort)
        if outcome.reported or not cohort:  # a round in which nobody had samples leaves the state as it is
            state = phase.server_update(model, state, outcome.total, round)
        wanted = phase.evaluated if evaluate == "round" else number == last_of_task[round.task.index]
        test = None
        if wanted:
            exam = Round(round.task, EVALUATE, number, seed)
            test = runtime.sum(state.shared, exam, method.evaluate.cohort(runtime.evaluators, exam))
        figures = phase.figures(outcome.total, outcome.watched) if outcome.reported else {}
        yield Event(number, round, state, outcome, test, figures)
