"""The places that read bytes, each with hostile ones: titles, and what reads them."""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import hostile_payloads as payloads
import torch
from small_runs import SETTINGS

from fedbraid import checkpoint, config, runs
from fedbraid.core import State
from fedbraid.data import load
from fedbraid.data.archives import Limits, unpacked
from fedbraid.errors import RunError
from fedbraid.merging.folders import CONFIG, WEIGHTS, read_adapter
from fedbraid.models import load_backbone
from fedbraid.reports import records
from fedbraid.runtimes.client import Work
from fedbraid.runtimes.codec import Codec
from fedbraid.runtimes.exchange import Answer, spell
from fedbraid.runtimes.holdings import ANSWER, RECEIVED, Holdings
from fedbraid.runtimes.inprocess import InProcess
from fedbraid.runtimes.journal import Journal
from fedbraid.runtimes.replying import reply_to
from fedbraid.runtimes.sealed import sealed
from fedbraid.runtimes.server import Rules, Server
from fedbraid.testing.numbers import ROUND, SHARED, holders, squares

Act = Callable[[], Any]
"""Reads hostile bytes. It returns where nothing of them was used, else it raises."""
MODEL: Any = None


class PassedBy(Exception):
    """Nothing of the payload was used."""


def wire(root: Path, marker: Path) -> Iterator[tuple[str, Act]]:
    """Answers that the server receives, and questions that a site receives."""
    sent = {**payloads.safetensors_of(marker), "a numpy file with an object": payloads.object_array(marker)}
    text = {"client": "a", "to": "", "is": "update"}
    sent["text that is no text"] = payloads.framed(b'{"__metadata__":{"to":[[]]}}')
    sent["a foreign question"] = Codec().encode({"x": torch.ones(1)}, text)
    for title, payload in sent.items():
        yield f"an answer: {title}", lambda payload=payload: _refused(payload)
    for title in ("a pickle", "a nested header"):
        yield f"a question: {title}", lambda payload=sent[title]: _asked(payload, root)
    whole = {"round": spell(ROUND), "to": "t", "same": "[]", "gone": "[]", "first": "yes", "all": "0"}
    for key, value in (("same", payloads.DEEP.decode()), ("gone", "3"), ("round", '{"task": 1}')):
        question = Codec().encode(dict(SHARED), whole | {key: value} | _digest())
        yield f"a question: bad {key!r}", lambda question=question: _asked(question, root)
    yield "a question without text", lambda: _asked(Codec().encode(dict(SHARED)), root)


def _digest() -> dict[str, str]:
    from fedbraid.runtimes.delivery import digest_of, digest_of_all

    return {"all": digest_of_all({name: digest_of(tensor) for name, tensor in SHARED.items()})}


def _work() -> Work:
    return Work(squares(), MODEL, Codec())


def _refused(payload: bytes) -> None:
    class Hostile(InProcess):
        def ask(self, *args: Any) -> Iterator[Answer | None]:
            for found in super().ask(*args):
                yield Answer("b", payload) if found and found.client == "b" else found

    transport = Hostile(_work(), holders({"a": (1.0,), "b": (2.0,), "c": (3.0,)}), {})
    outcome = Server(_work(), transport, rules=Rules(quorum=0.5)).sum(SHARED, ROUND, ["a", "b", "c"])
    assert outcome.reported == ("a", "c"), outcome
    raise RunError(str(outcome.refused["b"]))


def _asked(question: bytes, root: Path) -> None:
    party = holders({"a": (1.0,)})["a"]
    reply_to(question, _work(), "a", party, Holdings(root / "site"), home=root / "site")


def files(root: Path, marker: Path) -> Iterator[tuple[str, Act]]:
    """What a run folder and a site's folder hold, written by somebody who knows how they are sealed."""
    evil = payloads.pickled(marker)
    nested = b'{"a":' + payloads.DEEP
    for title, payload in (("a pickle", evil), ("what torch.save writes", payloads.torch_zip(marker))):
        yield f"a state with a valid manifest: {title}", lambda payload=payload: _state(root, payload)
    yield "a manifest: a pickle", lambda: _manifest(root, evil)
    yield "a manifest: nested", lambda: _manifest(root, nested)
    for title, content in (("a pickle", evil), ("sealed, a pickle", sealed({"to": "t"}, evil)), ("nested", nested)):
        yield f"a journal: {title}", lambda content=content: _journal(root, content)
    yield (
        "a journal: sealed, kept a pickle",
        lambda: _journal(root, sealed({"to": "t", "client": "a", "payload": 0}, evil)),
    )
    for name, content in (("config.toml", b"a = " + payloads.DEEP), ("config.toml", evil), ("partition.json", nested)):
        kind = "nested" if content is not evil else "a pickle"
        yield f"{name}: {kind}", lambda name=name, content=content: _run(root, name, content)
    code = f"[training]\nlr = \"__import__('os').mkdir('{marker}')\"\n".encode()
    yield "config.toml: code for a number", lambda: _run(root, "config.toml", code)
    yaml = f'[data]\nname = "!!python/object/apply:os.mkdir [{marker}]"\n'.encode()
    yield "config.toml: a YAML object", lambda: _run(root, "config.toml", yaml)
    yield "environment.json: nested", lambda: _run(root, "environment.json", nested)
    yield "events.jsonl: nested", lambda: records.read(_written(root / "events.jsonl", nested + b"\n"))
    yield "received: a pickle", lambda: _lost(root, evil)
    yield "answer: a pickle", lambda: _answered(root, evil)
    yield "kept: sealed, a pickle", lambda: _kept(root, sealed({}, evil))


def _written(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _state(root: Path, payload: bytes) -> None:
    import hashlib

    folder = root / "state"
    checkpoint.write(folder, checkpoint.Checkpoint(1, State({"x": torch.ones(1)})))
    path = folder / "000001.json"
    text = path.read_text()
    whole = hashlib.sha256((folder / "000001.safetensors").read_bytes()).hexdigest()
    body = text.splitlines()[0].replace(whole, hashlib.sha256(payload).hexdigest())
    path.write_text(f"{body}\n{hashlib.sha256(body.encode()).hexdigest()}\n")
    (folder / "000001.safetensors").write_bytes(payload)
    checkpoint.read(folder)


def _manifest(root: Path, content: bytes) -> None:
    import hashlib

    content += b"\n" + hashlib.sha256(content).hexdigest().encode() + b"\n"
    _written(root / "state" / "000001.json", content)
    checkpoint.read(root / "state")


def _journal(root: Path, content: bytes) -> None:
    journal = Journal(root / "journal")
    journal.begin("t")
    journal.add(Answer("a", b"x"))
    [path] = (root / "journal").iterdir()
    path.write_bytes(content)
    assert Journal(root / "journal").begin("t") == []
    raise PassedBy


def _run(root: Path, name: str, content: bytes) -> None:
    run = runs.start(config.read("", [*SETTINGS]), root / "run")
    _written(run.folder / name, content)
    (run.folder / "environment.json").unlink() if name != "environment.json" else None
    runs.resume(run.folder)


def _lost(root: Path, content: bytes) -> None:
    _written(root / "site" / RECEIVED, content)
    assert Holdings(root / "site")._received() == {}
    raise PassedBy


def _answered(root: Path, content: bytes) -> None:
    _written(root / "site" / ANSWER, content)
    assert Holdings(root / "site").answered("t") is None
    raise PassedBy


def _kept(root: Path, content: bytes) -> None:
    Holdings(root / "site").answer("t", "round", b"", {"seen": torch.ones(1)})
    [path] = (root / "site").glob("*.kept")
    path.write_bytes(content)
    Holdings(root / "site").kept("next round")


def models(root: Path, marker: Path) -> Iterator[tuple[str, Act]]:
    """Adapter folders, backbones in a folder, and timm's weights."""
    bad = payloads.safetensors_of(marker)
    for title in ("a pickle", "what torch.save writes", "a header of 2^63 bytes", "a nested header", "NaN for a size"):
        yield f"an adapter's weights: {title}", lambda payload=bad[title]: _adapter(root, {WEIGHTS: payload})
    yield "an adapter: adapter_model.bin", lambda: _adapter(root, {"adapter_model.bin": bad["what torch.save writes"]})
    yield "an adapter's config: nested", lambda: _adapter(root, {CONFIG: payloads.DEEP})
    own = b'{"peft_type": "LORA", "auto_mapping": {"parent_library": "evil"}, "custom": "evil.py"}'
    evil = f"import os\nos.mkdir({str(marker)!r})\n".encode()
    yield "an adapter with a module", lambda: _adapter(root, {CONFIG: own, "evil.py": evil, "__init__.py": evil})
    for title in ("a pickle", "what torch.save writes", "what torch.save wrote before"):
        yield (
            f"a backbone's pytorch_model.bin: {title}",
            lambda payload=bad[title]: _backbone(root, {"pytorch_model.bin": payload}),
        )
    for title in ("a pickle", "a header of 2^63 bytes", "a tensor of 2^62 numbers"):
        yield (
            f"a backbone's model.safetensors: {title}",
            lambda payload=bad[title]: _backbone(root, {"model.safetensors": payload}),
        )
    index = b'{"metadata": {}, "weight_map": {"x": "../evil.bin"}}'
    yield (
        "a backbone's index that leads out",
        lambda: _backbone(root, {"pytorch_model.bin.index.json": index, "../evil.bin": bad["what torch.save writes"]}),
    )
    auto = b'{"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}'
    yield "a backbone with a module", lambda: _backbone(root, {"config.json": auto, "evil.py": evil})
    yield "a backbone's config: nested", lambda: _backbone(root, {"config.json": payloads.DEEP})
    for title in ("a pickle", "what torch.save writes", "a nested header"):
        yield (
            f"timm's weights: {title}",
            lambda payload=bad[title]: load_backbone(f"timm:test_vit@{_written(root / 'weights.pth', payload)}"),
        )


def _adapter(root: Path, content: Mapping[str, bytes]) -> None:
    for name, payload in ({CONFIG: b'{"peft_type": "LORA", "r": 2, "lora_alpha": 2}'} | dict(content)).items():
        _written(root / "adapter" / name, payload)
    read_adapter(root / "adapter")


def _backbone(root: Path, content: Mapping[str, bytes]) -> None:
    from fedbraid.models import backbones

    folder = root / "backbone"
    folder.mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copy(Path(str(backbones.TINY)) / name, folder / name)
    for name, payload in content.items():
        _written(folder / name, payload)
    load_backbone(str(folder))


def archives(root: Path, marker: Path) -> Iterator[tuple[str, Act]]:
    """Archives that lead out of their folder, or hold more than they may."""
    os.environ["XDG_CACHE_HOME"] = str(root / "cache")
    outside = str(marker)
    member, tar, packed = payloads.tar_member, payloads.tar_of, payloads.zip_of
    path, zipped = root / "a.tar.gz", root / "a.zip"
    tars = {
        "a symbolic link": (member("out", tarfile.SYMTYPE, str(marker.parent)), b""),
        "a hard link": (member("out", tarfile.LNKTYPE, "/etc/passwd"), b""),
        "a device": (member("out", tarfile.CHRTYPE), b""),
        "a pipe": (member("out", tarfile.FIFOTYPE), b""),
        "a name with ..": (member("a/../../../../../../../.." + outside), b"x"),
        "an absolute name": (member(outside), b"x"),
        "a bomb": (member("zeros"), bytes(50_000_000)),
    }
    small = Limits(files=100, total_bytes=10_000_000)
    for title, one in tars.items():
        yield f"a tar: {title}", lambda one=one: unpacked(tar(path, one), small)
    many = [(member(f"{i}"), b"") for i in range(200)]
    yield "a tar: many files", lambda: unpacked(tar(path, *many), small)
    zips = {
        "a symbolic link": ("out", outside.encode(), stat.S_IFLNK | 0o777),
        "a name with ..": (f"../../../../../../../..{outside}", b"x", 0o644),
        "a name with a drive": ("C:/out", b"x", 0o644),
        "a bomb": ("zeros", bytes(50_000_000), 0o644),
    }
    for title, entry in zips.items():
        yield f"a zip: {title}", lambda entry=entry: unpacked(packed(zipped, entry), small)


def data(root: Path, marker: Path) -> Iterator[tuple[str, Act]]:
    """Folders and files of data."""
    images = {
        "that is a pickle": payloads.pickled(marker),
        "that claims 10^10 pixels": payloads.png_of(100_000, 100_000),
        "that is PostScript": f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n({marker}) (w) file\n".encode(),
    }
    for title, content in images.items():
        yield (
            f"an image {title}",
            lambda content=content: load(_written(root / "images" / "c" / "1.png", content).parents[1]),
        )
    yield "an .npz with an object", lambda: load(_written(root / "data.npz", payloads.object_arrays(marker)))
    yield "an .npy with an object", lambda: load(_written(root / "data.npy", payloads.object_array(marker)))
    yield "a .pkl", lambda: load(_written(root / "data.pkl", payloads.pickled(marker)))
    yield (
        "a folder with a loading script",
        lambda: load(
            _written(root / "script" / "script.py", f"import os\nos.mkdir({str(marker)!r})\n".encode()).parent
        ),
    )
    cifar = root / "cifar-10-batches-py"
    yield (
        "CIFAR-10 as pickles",
        lambda: load("cifar10", path=str(_written(cifar / "data_batch_1", payloads.pickled(marker, 2)).parent)),
    )
    yield "a .jsonl that is nested", lambda: load(_written(root / "a.jsonl", b'{"text": ' + payloads.DEEP + b"\n"))
    yield "a .csv that is a pickle", lambda: load(_written(root / "a.csv", payloads.pickled(marker)))
    yield "a .parquet that is a pickle", lambda: load(_written(root / "a.parquet", payloads.pickled(marker)))
    yield "a .parquet with a pickled type", lambda: _typed(root, marker)


def _typed(root: Path, marker: Path) -> None:
    load(payloads.parquet_of(root / "a.parquet", marker), test_fraction=0.5)
    raise PassedBy


PLACES = {"wire": wire, "files": files, "models": models, "archives": archives, "data": data}
