"""A run of any length can be watched: what is read is read once, in parts, and little of it is kept."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

from fedbraid.watch.asking import NOTICES, Log
from fedbraid.watch.finishing import HISTORY, POINTS
from fedbraid.watch.following import PART, Lines
from fedbraid.watch.status import Watch

CLIENTS = [str(client) for client in range(98)]


def _write(folder, rounds: int) -> int:
    """The log's length: in every round one client fails and the others send, and the last round is not over."""
    spelt = json.dumps({"task": {"index": 0, "offsets": [0, 2]}, "phase": "train", "index": 0, "seed": 0})
    at = f'{{"at": "{folder.now.isoformat()}", "what": '
    begin = f'{at}"round", "round": {json.dumps(spelt)}, "cohort": {json.dumps(CLIENTS)}}}\n'
    answers = "".join(f'{at}"received", "client": "{client}", "bytes": 1000}}\n' for client in CLIENTS[1:])
    failed = f'{at}"failed", "client": "0", "reason": "lost"}}\n'
    once = f'{begin}{answers}{failed}{at}"merged", "reported": []}}\n'
    return (folder.path / "activity.jsonl").write_text(once * rounds + begin)


def _impatient(folder) -> Watch:
    """A watch that reads no more than one part in a look."""
    ticks = iter(range(10**6))
    return Watch(folder.path, patience=0.0, clock=lambda: float(next(ticks)))


def test_a_hundred_thousand_lines_are_read_once_and_in_parts(folder, monkeypatch) -> None:
    length = _write(folder, 1000)
    watch, seen = _impatient(folder), [0]
    add = Log.add
    monkeypatch.setattr(Log, "add", lambda log, entry: (seen.append(seen.pop() + 1), add(log, entry)))
    shares = [0.0]
    while (status := watch.look(folder.now)).read < 1:
        assert status.state == "reading"
        shares.append(status.read)
    assert seen == [100_001]
    assert shares == sorted(shares)
    assert length / PART - 1 < len(shares) < length / PART + 2
    assert status.round
    assert status.round.counts["awaited"] == len(CLIENTS)
    assert [(one.what, one.times) for one in status.troubles] == [("failed", 1000)]
    folder.say("received", client="5", bytes=1)
    watch.look(folder.now)
    assert seen == [100_002]


def test_little_memory_is_taken_in_reading(folder) -> None:
    assert _write(folder, 300) > 2 * PART
    watch = _impatient(folder)
    tracemalloc.start()
    while (status := watch.look(folder.now)).read < 1:
        pass
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < PART / 4
    assert peak < 12 * PART
    assert status == Watch(folder.path, patience=1e9).look(folder.now)


def test_what_is_kept_of_many_rounds_is_bounded(folder) -> None:
    folder.summarise(["0", "1"], rounds=5000)
    lines = []
    for number in range(3000):
        record = {"event": number, "task": number // 1000, "reported": ["0"], "failed": {"1": "lost"}}
        record |= {"correct": [number], "total": [3000], "seconds": 1.0, "bytes_up": {"0": 10}}
        lines.append(json.dumps(record) + "\n")
    (folder.path / "events.jsonl").write_text("".join(lines))
    for number in range(200):
        folder.ask([f"c{number}"])
        folder.say("failed", client=f"c{number}", reason="lost")
    status = Watch(folder.path, patience=1e9).look(folder.now)
    assert POINTS / 2 < len(status.curve) <= POINTS + 1
    assert status.curve[0] == (1, 0.0)
    assert status.curve[-1] == (3000, 2999 / 3000)
    assert status.starts == ((0, 1), (1, 1001), (2, 2001))
    assert len(status.troubles) == NOTICES
    one = next(client for client in status.clients if client.id == "1")
    assert (one.failed, one.history) == (3000, "f" * HISTORY)
    assert status.up == 30_000


def test_a_line_longer_than_a_part_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    long = json.dumps({"at": "", "clients": ["x" * 1000] * 3000})
    path.write_text(f'{long}\n{{"at": "", "what": "merged"}}\n')
    lines = Lines(path)
    assert len(long) > 2 * PART
    assert [len(entry) for entry in lines.entries()] == [2, 2]
    assert lines.share() == 1.0
    assert not [*lines.entries()]
