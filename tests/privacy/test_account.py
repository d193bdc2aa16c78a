"""An account pays once for what is the same, before it leaves, and never more than the budget."""

import json
import stat
from pathlib import Path

import pytest
import torch

from fedbraid.core import Round, Task
from fedbraid.errors import RunError, StoppedRun
from fedbraid.privacy.account import EVERYTHING, LEDGER, SECRET, Account
from fedbraid.privacy.accountant import epsilon
from fedbraid.privacy.ledger import Budget, Ledger, Release

pytest.importorskip("dp_accounting", reason="an epsilon needs the extra 'privacy'")

BUDGET = Budget(4.0, 1e-5)
STEPS = (Release(1.2, 10, 0.1),)
SHARED = {"w": torch.ones(3)}
IDS = torch.arange(5)


def _round(index: int = 0, task: int = 0) -> Round:
    return Round(Task(task, (0, 2, 4)), "train", index, 0)


def _pay(folder: Path, index: int = 0, task: int = 0, terms: str = "t", shared=SHARED, ids=IDS, releases=STEPS):
    return Account(folder, BUDGET, terms).pay(_round(index, task), "a", shared, ids, releases)


def _ledger(folder: Path, name: str = "0") -> Ledger:
    return Ledger.from_data(json.loads((folder / LEDGER).read_text())["samples"][name])


def test_asked_the_same_again_it_pays_nothing_and_gives_the_same_key(tmp_path: Path) -> None:
    first = _pay(tmp_path)
    assert _pay(tmp_path) == first
    assert _ledger(tmp_path) == Ledger(STEPS)
    assert stat.S_IMODE((tmp_path / SECRET).stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "other", [{"index": 1}, {"shared": {"w": torch.zeros(3)}}, {"ids": torch.arange(4)}, {"terms": "other"}]
)
def test_anything_else_is_paid(other: dict, tmp_path: Path) -> None:
    key, spent = _pay(tmp_path)
    key_of_other, more = _pay(tmp_path, **other)
    assert more > spent
    assert _ledger(tmp_path) == Ledger((Release(1.2, 20, 0.1),))
    assert (key_of_other == key) == (not {"ids", "terms"} & other.keys()), "else the round and the tensors differ"


def test_tasks_have_ledgers_of_their_own(tmp_path: Path) -> None:
    _, first = _pay(tmp_path)
    _, second = _pay(tmp_path, task=1)
    assert first == second
    assert _ledger(tmp_path, "2") == _ledger(tmp_path, "3") == Ledger(STEPS)


def test_runs_of_other_tasks_and_settings_spend_of_the_same_samples(tmp_path: Path) -> None:
    """FAULTS 1.13: a server that changes a setting by 1e-6 finds the same account."""
    spent = [_pay(tmp_path, terms=f"clip = {1 + n / 1e6}")[1] for n in range(3)]
    assert spent == sorted(spent)
    assert len(set(spent)) == 3

    def other(task: Task) -> list[str]:  # the same classes in another order and other tasks
        return [["1", "3"], ["0", "2"]][task.index]

    _, more = Account(tmp_path, BUDGET, "t", other).pay(_round(9), "a", SHARED, IDS, STEPS)
    assert more > spent[-1]
    assert _ledger(tmp_path, "1") == Ledger((Release(1.2, 40, 0.1),))
    assert _ledger(tmp_path, "3") == Ledger(STEPS)


def test_a_release_of_all_samples_counts_for_every_class(tmp_path: Path) -> None:
    _, first = _pay(tmp_path)
    everything = Account(tmp_path, BUDGET, "numbers", lambda _task: (EVERYTHING,))
    everything.pay(_round(1), "a", SHARED, IDS, STEPS)
    _, again = _pay(tmp_path)
    assert again == epsilon(Ledger((Release(1.2, 20, 0.1),)), BUDGET.delta) > first

    def spend_all() -> None:
        for index in range(2, 9):
            everything.pay(_round(index), "a", SHARED, IDS, (Release(0.6, 10, 0.1),))

    with pytest.raises(StoppedRun, match="the privacy budget is spent"):
        spend_all()
    _, after = _pay(tmp_path)
    assert after <= BUDGET.epsilon


def test_it_stops_before_the_budget_is_exceeded_and_forgets_nothing(tmp_path: Path) -> None:
    large = (Release(0.9, 10, 0.1),)
    spent, rounds = 0.0, 0
    while epsilon(Ledger() + Release(0.9, 10 * (rounds + 1), 0.1), BUDGET.delta) <= BUDGET.epsilon:
        _, spent = _pay(tmp_path, rounds, releases=large)
        rounds += 1
    assert rounds > 0
    assert spent <= BUDGET.epsilon
    before = (tmp_path / LEDGER).read_text()
    with pytest.raises(StoppedRun, match="the privacy budget is spent"):
        _pay(tmp_path, rounds, releases=large)
    assert (tmp_path / LEDGER).read_text() == before
    assert _pay(tmp_path, 0, releases=large)[1] == spent, "what is paid may be repeated"


def test_a_lost_or_damaged_ledger_is_an_error(tmp_path: Path) -> None:
    _pay(tmp_path)
    whole = (tmp_path / LEDGER).read_text()
    (tmp_path / LEDGER).write_text(whole.replace('"times": 10', '"times": 1'))
    with pytest.raises(RunError, match="what was spent is unknown"):
        _pay(tmp_path)
    (tmp_path / LEDGER).unlink()
    with pytest.raises(RunError, match="what was spent is unknown"):
        _pay(tmp_path)
    (tmp_path / LEDGER).write_text(whole)
    (tmp_path / SECRET).write_bytes(b"short")
    with pytest.raises(RunError, match="is damaged"):
        _pay(tmp_path)
    (tmp_path / SECRET).unlink()
    _pay(tmp_path)
    assert _ledger(tmp_path) == Ledger((Release(1.2, 20, 0.1),)), "another secret, so another release"
