"""State files: round trip, generations, and every flipped bit or lost byte detected."""

from __future__ import annotations

import errno
import os
import random

import pytest
import torch

from fedbraid import checkpoint
from fedbraid.checkpoint import Checkpoint
from fedbraid.core import State
from fedbraid.errors import RunError, StoppedRun


def _state(value: float) -> State:
    shared = {"head/0": torch.full((3, 2), value), "empty/x": torch.zeros(0, 4)}
    return State(shared, {"gram/0/a": torch.tensor([value, 2.0], dtype=torch.float64)})


def _write(folder, done: int) -> None:
    checkpoint.write(folder, Checkpoint(done, _state(float(done)), {"clock": done}, 10 * done))


def test_what_is_written_is_read(tmp_path):
    _write(tmp_path, 3)
    read = checkpoint.read(tmp_path)
    assert (read.done, read.memory, read.events_bytes) == (3, {"clock": 3}, 30)
    assert checkpoint.state_sha256(read.state) == checkpoint.state_sha256(_state(3.0))


def test_no_state_yet_is_none(tmp_path):
    assert checkpoint.read(tmp_path / "state") is None


def test_two_generations_are_kept_and_the_newest_read(tmp_path):
    for done in (1, 2, 9, 10):
        _write(tmp_path, done)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "000009.json",
        "000009.safetensors",
        "000010.json",
        "000010.safetensors",
    ]
    assert checkpoint.read(tmp_path).done == 10


@pytest.mark.parametrize("suffix", ["json", "safetensors"])
def test_every_flip_and_truncation_falls_back_to_the_generation_before(tmp_path, suffix):
    _write(tmp_path, 1)
    _write(tmp_path, 2)
    path = tmp_path / f"000002.{suffix}"
    whole = path.read_bytes()
    draw = random.Random(0)
    for trial in range(300):
        damaged = bytearray(whole)
        if trial % 3 == 0:
            damaged = damaged[: draw.randrange(len(whole))]
        else:
            damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(bytes(damaged))
        assert checkpoint.read(tmp_path).done == 1, f"trial {trial}"


def test_all_generations_damaged_is_an_error_that_names_them(tmp_path):
    for done in (1, 2):
        _write(tmp_path, done)
        (tmp_path / f"00000{done}.safetensors").write_bytes(b"nothing")
    with pytest.raises(RunError, match=r"000002\.json.*000001\.json"):
        checkpoint.read(tmp_path)


@pytest.mark.parametrize("point", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_the_last_state_whole(tmp_path, monkeypatch, point):
    _write(tmp_path, 1)

    def full(*_arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace" if point == "replace" else "fsync", full)
        with pytest.raises(StoppedRun, match=r"disk is full.*000002\.safetensors needs \d+ bytes"):
            _write(tmp_path, 2)
    assert checkpoint.read(tmp_path).done == 1
    _write(tmp_path, 2)
    assert checkpoint.read(tmp_path).done == 2


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EROFS])
def test_whatever_the_disk_refuses_the_error_names_file_and_bytes(tmp_path, monkeypatch, number):
    _write(tmp_path, 1)

    def refused(*_arguments, **_options):
        raise OSError(number, os.strerror(number))

    for name in ("replace", "unlink", "open", "fsync"):
        monkeypatch.setattr(os, name, refused)
    what = "quota is used up" if number == errno.EDQUOT else r"cannot write \(Read-only"
    with pytest.raises(StoppedRun, match=rf"{what}.*000002\.safetensors needs \d+ bytes"):
        _write(tmp_path, 2)
    monkeypatch.undo()
    assert checkpoint.read(tmp_path).done == 1


def test_the_hash_tells_names_shapes_types_and_values_apart():
    base = {"a": torch.zeros(2, 3)}
    variants = [{"b": torch.zeros(2, 3)}, {"a": torch.zeros(3, 2)}, {"a": torch.zeros(2, 3).double()}]
    variants.append({"a": torch.tensor([[0.0, 0, 0], [0, 0, -0.0]])})
    variants += [{"a": torch.zeros(2, 3, dtype=torch.bfloat16)}, {"a": torch.zeros(())}, {"a": torch.zeros(0)}]
    hashes = {checkpoint.state_sha256(State(shared)) for shared in [base, *variants]}
    assert len(hashes) == 8
    assert checkpoint.state_sha256(State(server=base)) not in hashes
