"""A site at work, bytes to bytes: handshakes and questions in, names and answers out.

Nothing of Flower is in here. The first question of a run builds model and data; later ones find them there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from fedbraid import preflight
from fedbraid.checkpoint import write_durably
from fedbraid.config.shared import shared_terms
from fedbraid.core import EVALUATE, Client, Round
from fedbraid.deployment import handshake
from fedbraid.deployment.handshake import NOT_ALLOWED, Handshake, local_config
from fedbraid.deployment.site import SiteFolder
from fedbraid.errors import RunError, UserError
from fedbraid.experiment import Experiment, build
from fedbraid.loading import Site
from fedbraid.naming import file_name
from fedbraid.progress import shown_on
from fedbraid.runtimes.exchange import read_round
from fedbraid.runtimes.holdings import KEPT, Holdings
from fedbraid.runtimes.identity import read_identity
from fedbraid.runtimes.replying import reply_to


@dataclass(frozen=True)
class _Built:
    text: bytes
    experiment: Experiment


class Answering:
    """A site in one process."""

    def __init__(self, site: SiteFolder) -> None:
        self._site = site
        self._built: _Built | None = None

    def greet(self, text: bytes) -> bytes:
        """The site's name, once it has taken note of the run; `UserError` for a run that it does not allow.

        The note is on disk before the name leaves, so a site that is restarted knows what it is asked about.
        """
        new = handshake.read(text)
        local_config(new, self._site)
        if self._path.is_file() and self._path.read_bytes() != text:
            self._check_change(handshake.read(self._path.read_bytes()), new)
        write_durably(self._path, text)
        return json.dumps({"client": self._site.terms.client}).encode()

    def check(self) -> bytes:
        """What this site would refuse of the run that it was greeted for (see `preflight`)."""
        with shown_on(None):
            experiment, _ = self._experiment()
            found = preflight.shorts(experiment, experiment.clients[self._site.terms.client])
            return json.dumps({"refused": preflight.data(found)}).encode()

    def answer(self, question: bytes) -> bytes:
        """The answer to a question of the server; `RunError` or `UserError` where it cannot be given."""
        with shown_on(None):
            experiment, agreed = self._experiment()
            round = _round_of(experiment, question)
            party = self._party(experiment, tests=round.phase == EVALUATE)
            holdings = Holdings(self._folder(agreed.run))
            home, identity = self._site.folder, read_identity(self._site.folder)
            client = self._site.terms.client
            return reply_to(question, experiment.work, client, party, holdings, home=home, identity=identity)

    @property
    def _path(self) -> Path:
        return self._site.folder / "run.json"

    def _experiment(self) -> tuple[Experiment, Handshake]:
        """The run that the site was greeted for, built once; `RunError` where there is none."""
        if not self._path.is_file():
            raise RunError("this site was set up anew, and has not been greeted since")
        text = self._path.read_bytes()
        agreed = handshake.read(text)
        if self._built is None or self._built.text != text:
            self._built = None  # one model in memory at a time
            self._built = _Built(text, self._build(agreed))
        return self._built.experiment, agreed

    def _build(self, agreed: Handshake) -> Experiment:
        config = local_config(agreed, self._site)
        experiment = build(config, site=Site(self._site.terms.client, tested=agreed.tested))
        self._check_delta(experiment)
        experiment = replace(experiment, terms=shared_terms(agreed.config))
        return experiment.guarded(self._site.folder, deployed=True)

    def _check_delta(self, experiment: Experiment) -> None:
        """A delta of one over the samples allows to publish one of them whole, also where a run takes only some."""
        privacy, samples = experiment.config.privacy, experiment.dataset.held
        if privacy.epsilon is not None and privacy.delta * samples >= 1:
            raise UserError(
                f"site {self._site.terms.client}: the server's run has delta = {privacy.delta}, which is not below "
                f"one over the {samples} samples of this site; take a smaller privacy.delta",
                code=NOT_ALLOWED,
            )

    def _party(self, experiment: Experiment, *, tests: bool) -> Client:
        """The site's training samples, or its test samples under its own name."""
        name = self._site.terms.client
        if tests:
            return replace(next(iter(experiment.evaluators.values())), id=name)
        return experiment.clients[name]

    def _folder(self, run: str) -> Path:
        return self._site.folder / "holdings" / file_name(run)

    def _check_change(self, before: Handshake, now: Handshake) -> None:
        """Samples that a method keeps by number would be others once more classes are read."""
        classes = [one.config.get("data", {}).get("classes") for one in (before, now)]
        if before.run == now.run and classes[0] != classes[1] and any(self._folder(now.run).glob(f"*{KEPT}")):
            raise UserError(
                f"site {self._site.terms.client} keeps samples by number, as this method wants, and more classes would "
                "number them anew; begin a new run with all tasks"
            )


def _round_of(experiment: Experiment, question: bytes) -> Round:
    """The round of a question; `RunError` for one that the run does not have.

    Samples are chosen by the classes of its task, so a task that no stream of the run brings could single some out.
    """
    text = experiment.work.codec.text(question).get("round")
    if text is None:
        raise RunError("a question that names no round; run one version everywhere")
    round = read_round(text)
    if round.task not in experiment.tasks:
        raise RunError(f"a question of a task that this run does not have ({round.task}); run one version everywhere")
    return round
