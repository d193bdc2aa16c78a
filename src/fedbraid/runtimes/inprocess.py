"""All clients in this process, one after another, with one model in memory whatever their number.

Every message passes through the codec, so bytes and rounding are those of a real deployment; sums are taken in the
order of client ids.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Literal
from urllib.parse import quote

from torch import Tensor

from fedbraid.algebra import ZERO, Statistic, Tensors, prefix, select, without
from fedbraid.core import EVALUATE, KEEP, Client, ClientId, Data, Method, Model, Outcome, Phase, Round
from fedbraid.errors import UserError
from fedbraid.progress import track
from fedbraid.runtimes.codec import Codec
from fedbraid.runtimes.delivery import Delivery, News


class InProcess:
    """A runtime over clients in memory.

    `lift_on` says where updates become statistics: on the server (small for most methods) or on the client (only what
    adds leaves it); the sum is the same up to the rounding of the wire.
    """

    def __init__(
        self,
        method: Method,
        model: Model,
        clients: Mapping[ClientId, Client],
        evaluators: Mapping[ClientId, Client],
        *,
        codec: Codec | None = None,
        lift_on: Literal["server", "client"] = "server",
        memory: Mapping | None = None,
        kept: Tensors | None = None,
    ) -> None:
        if not clients:
            raise UserError("a run needs at least one client")
        self.clients: Sequence[ClientId] = sorted(clients)
        self.evaluators: Sequence[ClientId] = sorted(evaluators)
        self._method = method
        self._model = model
        self._parties = {**clients, **evaluators}
        self._codec = codec or Codec()
        self._lift_on = lift_on
        self._delivery = Delivery(memory)
        self._messages: dict[News, bytes] = {}
        self._kept: dict[str, Tensor] = dict(kept or {})

    def party(self, client: ClientId) -> Client:
        """The client or evaluator of that id."""
        return self._parties[client]

    def memory(self) -> Mapping:
        """What a resumed runtime needs to know of the messages sent so far."""
        return self._delivery.memory()

    def kept(self) -> Tensors:
        """What clients keep for themselves between rounds, as `<client>/<name>`: no message ever holds it."""
        return self._kept

    def sum(self, shared: Tensors, round: Round, cohort: Sequence[ClientId]) -> Outcome:
        """The sum of the cohort's statistics; clients without samples for this round are idle."""
        if not cohort:
            return Outcome(ZERO)
        begin = time.perf_counter()
        phase = self._method.phase(round)
        data = {client: self._data(phase, client, round) for client in sorted(cohort)}
        active = [client for client in data if len(data[client]) > 0]
        if not active and round.phase == EVALUATE:
            raise UserError(f"there are no test samples of the classes seen in {round}; add some")
        if not active:
            return Outcome(ZERO, idle=tuple(data))
        received = self._broadcast(shared)
        self._delivery.publish(received)
        self._messages.clear()
        result, watched = ZERO, ZERO
        up, values, down = dict[ClientId, int](), dict[ClientId, int](), dict[ClientId, int]()
        for client in track(active, _title(round)):
            down[client] = len(self._download(shared, client, round))
            payload = self._upload(phase, received, data[client], round)
            tensors = self._codec.decode(payload).tensors
            up[client], values[client] = len(payload), sum(tensor.numel() for tensor in tensors.values())
            if self._lift_on == "client":
                result = result + Statistic(tensors)
            else:
                result = result + phase.lift(received, tensors, round)
                watched = watched + phase.watch(received, tensors, round)
        idle = tuple(client for client in data if client not in up)
        return Outcome(result, tuple(active), idle, up, down, time.perf_counter() - begin, values, watched)

    def _data(self, phase: Phase, client: ClientId, round: Round) -> Data:
        return phase.data(self._parties[client], round.task).remembering(select(self._kept, _home(client)))

    def _broadcast(self, shared: Tensors) -> Tensors:
        """The shared tensors as every client has them: rounded by the codec, decoded once for all of them."""
        return self._codec.decode(self._codec.encode(shared)).tensors

    def _download(self, shared: Tensors, client: ClientId, round: Round) -> bytes:
        """What the client is sent: what is new to it. Clients that miss the same get the same message."""
        news = self._delivery.news(client)
        if news not in self._messages:
            text = {"round": _place(round), "same": json.dumps(news.same), "gone": json.dumps(news.gone)}
            self._messages[news] = self._codec.encode({key: shared[key] for key in news.send}, text)
        return self._messages[news]

    def _upload(self, phase: Phase, received: Tensors, data: Data, round: Round) -> bytes:
        """What the client sends, as bytes; what it keeps stays here."""
        update = phase.client_update(self._model, received, data, round)
        self._kept |= prefix(select(update, KEEP), _home(data.client))
        update = without(update, KEEP)
        if self._lift_on == "client":
            update = phase.lift(received, update, round)
        return self._codec.encode(update, {"round": _place(round), "client": data.client})


def _home(client: ClientId) -> str:
    """The client's id as the first part of a name; a slash in it would make it look like another client's."""
    return quote(client, safe="")


def _place(round: Round) -> str:
    """The round that a message belongs to, as text."""
    return json.dumps({"task": round.task.index, "phase": round.phase, "round": round.index})


def _title(round: Round) -> str:
    return "evaluation" if round.phase == EVALUATE else f"round {round.index + 1} ({round.phase})"
