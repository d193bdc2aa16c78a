"""Runs under a budget: what they spend, that they stop, that they resume with the same bits, and what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from digit_runs import finished, small

from fedbraid import protected, runs
from fedbraid.config import Config
from fedbraid.core import Round, Task
from fedbraid.errors import RunError, StoppedRun, UserError
from fedbraid.experiment import build
from fedbraid.local.training import Training
from fedbraid.methods import METHODS, Setting, make
from fedbraid.models import Adapter
from fedbraid.privacy import guard as guards
from fedbraid.privacy.account import LEDGER
from fedbraid.privacy.accountant import epsilon
from fedbraid.privacy.guard import FILE, Guard, Payment
from fedbraid.privacy.ledger import RELATION, Budget, Ledger, Release
from fedbraid.privacy.protection import Protection
from fedbraid.quantities import MOMENT, SAMPLES, VALUE
from fedbraid.reports import records
from fedbraid.watch.status import watching

pytest.importorskip("dp_accounting", reason="an epsilon needs the extra 'privacy'")

PRIVATE = ["method.name=fedit", "training.batch_size=5", "adapter.rank=1", "adapter.blocks=0"]
PRIVATE += ["privacy.samples=12", "privacy.epsilon=6"]
COVERED = ("joint", "fedavg", "fedprox", "fedit", "ffa_lora", "rolora", "ties")


def private(*more: str) -> Config:
    return small(*PRIVATE, *more)


def _ledger(folder: Path, client: str, task: int) -> Ledger:
    """That of the first class of a task: digits come in their order."""
    samples = json.loads((folder / "clients" / client / LEDGER).read_text())["samples"]
    return Ledger.from_data(samples[str(2 * task)])


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    """A run that was left after the first round of training."""
    run = runs.start(private(), tmp_path_factory.mktemp("private") / "run")
    events = run.events()
    for _ in range(2):
        next(events)
    events.close()
    return run.folder


@pytest.fixture(scope="module")
def whole(begun, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    shutil.copytree(begun, folder)
    finished(runs.resume(folder))
    return folder


def test_what_is_spent_is_what_the_accountant_says_of_all_releases(whole: Path) -> None:
    steps, rounds, rate = -(-12 // 5), 2, 5 / 12
    noise = runs.read_config(whole).privacy.noise
    assert noise
    counted = Ledger() + Release(noise, steps * rounds, rate)
    for client in ("0", "1"):
        for task in (0, 1):
            assert _ledger(whole, client, task) == counted
    told = runs.read_results(whole)["privacy"]
    assert told["epsilon"] == epsilon(counted, 1e-5)
    assert 5.5 < told["epsilon"] <= 6 == told["budget"]
    assert (told["delta"], told["relation"]) == (1e-5, RELATION)
    assert "DP-SGD, 3 steps a round" in told["mechanism"]
    shown = watching(whole).look().privacy
    assert shown
    assert (shown.epsilon, shown.delta) == (told["epsilon"], 1e-5)
    assert f"epsilon {told['epsilon']:.4g} of 6 spent at delta 1e-05" in (whole / "report.html").read_text()


def test_every_message_of_training_samples_is_covered_and_tells_no_true_number(whole: Path) -> None:
    by_phase = {entry["phase"]: entry for entry in guards.read(whole / FILE)}
    assert by_phase["train"]["private"]
    assert not by_phase["evaluate"]["private"]
    count = next(part for part in by_phase["train"]["parts"] if part["kind"] == "count")
    assert count["discloses"].startswith("a number that is declared")
    assert all(event["loss"] is None for event in records.read(whole / "events.jsonl"))


@pytest.mark.parametrize("client", ["0", "1"])
def test_a_run_stopped_in_mid_round_ends_with_the_same_bits_and_pays_nothing_twice(
    client: str, begun: Path, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(begun, folder)

    def stop(what: str, **facts) -> None:
        if what == "received" and facts["client"] == client:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finished(replace(runs.resume(folder), heard=stop))
    shutil.rmtree(folder / "journal", ignore_errors=True)  # so that all are asked again
    found = finished(runs.resume(folder))
    assert found["state_sha256"] == runs.read_results(whole)["state_sha256"]
    for name in ("0", "1"):
        assert _ledger(folder, name, 0) == _ledger(whole, name, 0)


def test_the_run_pauses_before_the_budget_is_exceeded(tmp_path: Path) -> None:
    run = runs.start(private("privacy.noise=0.9", "privacy.epsilon=8", "training.rounds=9"), tmp_path / "run")
    assert any("will pause before epsilon exceeds 8" in note for note in run.experiment.notes)
    with pytest.raises(StoppedRun, match="client 0 sits out: the privacy budget is spent"):
        finished(run)
    told = runs.read_results(run.folder)
    assert not told["finished"]
    assert 0 < told["privacy"]["epsilon"] <= 8
    with pytest.raises(StoppedRun, match="budget is spent"):
        finished(runs.resume(run.folder))


def test_a_site_has_one_account_for_all_configurations(tmp_path: Path) -> None:
    for settings in (private(), private("privacy.clip=1.000001", "method.name=fedavg", "run.seed=3")):
        guard = build(settings).guarded(tmp_path, deployed=True).guard
        assert guard
        assert guard._payment
        guard._payment.account("0").pay(
            Round(Task(0, (0, 2, 4)), "train", 0, 0), "0", {}, torch.arange(3), [Release(9)]
        )
    (ledger,) = tmp_path.glob("accounts/*/ledger.json")
    assert Ledger.from_data(json.loads(ledger.read_text())["samples"]["0"]) == Ledger((Release(9, 2),))


def test_feasibility_is_told_before_the_run(tmp_path: Path) -> None:
    first, second = build(private()).notes
    assert first.startswith("private: epsilon 5.9")
    assert "times the largest possible gradient" in second
    assert "samples a client" in second


@pytest.mark.parametrize("name", sorted(METHODS))
def test_methods_are_covered_or_refused_by_name(name: str) -> None:
    options = METHODS[name]()
    kind = options.about.adapters[0]
    setting = Setting(options.adapter(Adapter("lora" if kind == "lora" else kind, rank=2)), Training(), 1)
    method = make(options, setting)
    if name in COVERED:
        protected.check_method(method, options.about)
        return
    with pytest.raises(UserError, match=f"method '{name}' cannot run under privacy.epsilon: no private release"):
        protected.check_method(method, options.about)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["privacy.samples=none"], "samples"),
        (["adapter.dropout=0.1"], "adapter.dropout = 0.1 draws one random number after another"),
        (["data.augment=flip"], "data.augment = 'flip'"),
        (["method.name=ccvr"], "moments of every class's features"),
        (["method.name=lorm"], "its phase 'train' sends something beside what it trains"),
    ],
)
def test_settings_that_are_not_covered_are_refused(settings: list[str], said: str) -> None:
    given = [one for one in PRIVATE if "samples=none" not in settings[0] or not one.startswith("privacy.samples")]
    with pytest.raises(UserError, match=said):
        build(small(*given, *(one for one in settings if "none" not in one)))


def test_a_message_that_is_not_covered_stays() -> None:
    protection = Protection(samples=10, batch_size=5, epochs=1, sigma=1.0)
    payment = Payment(Budget(6.0, 1e-5), protection, lambda client: pytest.fail(client), lambda round: ())
    message = {"lora_B/a": torch.zeros(2, 2), "count": torch.tensor(10.0), "first": torch.zeros(2, 3)}
    with pytest.raises(RunError, match="client a: no private release is known for class moments; nothing was sent"):
        Guard(payment=payment).check(
            message, {"lora_B": VALUE, "count": SAMPLES, "first": MOMENT}, Round(Task(0, (0, 2)), "train", 0, 0), "a", 7
        )


def test_lorm_with_diagonal_grams_alone_is_paid_for_both(tmp_path: Path) -> None:
    run = runs.start(private("method.name=lorm", "method.all_diagonal=true", "stream.tasks=1"), tmp_path / "run")
    told = finished(run)["privacy"]
    noise = run.experiment.config.privacy.noise
    assert noise
    counted = Ledger() + Release(noise, 3 * 2, 5 / 12) + Release(4 * noise, 2 + 1)
    assert _ledger(run.folder, "0", 0) == counted
    assert told["epsilon"] == epsilon(counted, 1e-5) <= 6
    kinds = {part["kind"] for entry in guards.read(run.folder / FILE) for part in entry["parts"]}
    assert "diagonal gram" in kinds
    assert "gram" not in kinds
