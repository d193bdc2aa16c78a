"""The stream: the order in which classes arrive, cut into tasks.

A class is known by its position in the stream, never by `label % classes_per_task`: tasks may differ in size.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedbraid.core import Task
from fedbraid.data.datasets import class_id
from fedbraid.data.sampling import generator
from fedbraid.errors import UserError


@dataclass(frozen=True)
class Stream:
    """`order` is the data set's class at each position; task k brings offsets[k] .. offsets[k + 1] - 1."""

    order: tuple[int, ...]
    offsets: tuple[int, ...]

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks in order; each knows the classes so far and none of those to come."""
        return tuple(Task(index, self.offsets[: index + 2]) for index in range(len(self.offsets) - 1))

    def place(self, labels: Tensor) -> Tensor:
        """The position in the stream of each label; `UserError` names a label that the stream lacks."""
        positions = torch.full((max(self.order) + 1,), -1)
        positions[list(self.order)] = torch.arange(len(self.order))
        outside = (labels < 0) | (labels >= len(positions))
        placed = torch.where(outside, -1, positions[labels.clamp(0, len(positions) - 1)])
        if (placed < 0).any():
            label = labels[placed < 0][0].item()
            raise UserError(
                f"class {label} is not in the stream, which brings {len(self.order)} classes; "
                "make the stream from this data set"
            )
        return placed

    def joined(self) -> Stream:
        """One task with all classes, in the same positions: joint training."""
        return Stream(self.order, (0, len(self.order)))

    def names(self, class_names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
        """The class names of each task."""
        return tuple(tuple(class_names[self.order[c]] for c in task.classes) for task in self.tasks)


def make_stream(
    class_count: int,
    *,
    tasks: int | None = None,
    sizes: Sequence[int] | None = None,
    order: str | Sequence[str | int] = "natural",
    class_names: Sequence[str] = (),
    seed: int = 0,
) -> Stream:
    """A stream of `tasks` about equal tasks, or of tasks of these `sizes`.

    `order` is "natural", "random" (a function of `seed`) or every class by name or number. Without `tasks`
    and `sizes` there are as many tasks as leave two classes to each, five at most.

    >>> make_stream(196, tasks=10).offsets[-3:]
    (160, 180, 196)
    """
    if tasks is not None and sizes is not None:
        raise UserError("stream.tasks and stream.sizes are both set; set one of them")
    if sizes is None:
        sizes = _sizes(class_count, _default_tasks(class_count) if tasks is None else tasks)
    elif min(sizes, default=0) < 1 or sum(sizes) != class_count:
        raise UserError(
            f"stream.sizes {list(sizes)} sum to {sum(sizes)}; they must be positive and sum to the "
            f"{class_count} classes of the data set"
        )
    offsets = tuple(sum(sizes[:count]) for count in range(len(sizes) + 1))
    return Stream(_order(order, class_count, class_names, seed), offsets)


def _default_tasks(class_count: int) -> int:
    return max(min(class_count // 2, 5), 1)


def _sizes(class_count: int, tasks: int) -> list[int]:
    """Full tasks and a shorter last one; where that one would have less than two classes, even sizes."""
    if not 1 <= tasks <= class_count:
        raise UserError(f"stream.tasks is {tasks}; {class_count} classes make 1 to {class_count} tasks")
    size = math.ceil(class_count / tasks)
    last = class_count - size * (tasks - 1)
    if last >= min(2, size):
        return [size] * (tasks - 1) + [last]
    share, longer = divmod(class_count, tasks)
    return [share + 1] * longer + [share] * (tasks - longer)


def _order(
    order: str | Sequence[str | int], class_count: int, class_names: Sequence[str], seed: int
) -> tuple[int, ...]:
    if order == "natural":
        return tuple(range(class_count))
    if order == "random":
        return tuple(torch.randperm(class_count, generator=generator(seed, "class order")).tolist())
    if isinstance(order, str):
        raise UserError(f"stream.order is {order!r}; it must be 'natural', 'random' or a list of all classes")
    names = class_names or [str(number) for number in range(class_count)]
    result = tuple(class_id(item, names, "stream.order") for item in order)
    twice = sorted(names[number] for number, times in Counter(result).items() if times > 1)
    if twice:
        raise UserError(f"stream.order names {', '.join(twice)} twice")
    missing = [names[number] for number in sorted({*range(class_count)} - {*result})]
    if missing:
        raise UserError(
            f"stream.order leaves out {len(missing)} of {class_count} classes, among them {missing[0]!r}; "
            "list every class, or choose classes with data.classes"
        )
    return result
