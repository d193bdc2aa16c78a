"""What the prompt methods share: prompts and head are trained and averaged, the prompts' own penalty is in the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from fedbraid.algebra import Tensors, select
from fedbraid.core import Method, Model, Round, State
from fedbraid.local.objectives import adapter_penalty
from fedbraid.methods.base import Options, Setting, head_of, require
from fedbraid.methods.fedavg import averaging, carried
from fedbraid.models.adapters import Adapter
from fedbraid.models.prompts import Prompts
from fedbraid.phases import Train, serve


class PromptOptions(Options, Prompts):
    """Options that are the method's prompts at once."""

    def adapter(self, given: Adapter) -> Adapter:
        """The given adapter with these prompts."""
        return replace(given, prompts=self)


def require_blocks(name: str, blocks: Sequence[int]) -> None:
    """`UserError` where an option is no list of block numbers in order."""
    fits = len(blocks) > 0 and min(blocks) >= 0 and list(blocks) == sorted(set(blocks))
    require(fits, name, tuple(blocks), "must be different block numbers in ascending order")


def prompting(setting: Setting, kinds: Callable[[Round], Sequence[str]]) -> Train:
    """Rounds of training for these kinds of prompts and the task's head."""
    return replace(
        averaging(setting),
        kinds=lambda round: (*kinds(round), head_of(round)),
        objectives=(setting.objective, adapter_penalty),
    )


def prompted(name: str, setting: Setting, train: Train, drawn: Callable[[Tensors, Round], Tensors]) -> Method:
    """A method whose server begins every task with a fresh head and what `drawn` takes of fresh prompts."""

    def start(model: Model, state: State, round: Round) -> State:
        head = model.fresh_head(round.task, round.generator("head"))
        fresh = select(model.fresh(round.generator("adapter")), "prompt")
        return State({**state.shared, **drawn(fresh, round), **head}, state.server)

    return carried(name, setting, {"start": serve(start), "train": train})
