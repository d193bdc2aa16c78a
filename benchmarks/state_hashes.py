"""Hashes of the end states of all methods, in every modality and way of summing: what a refactoring must not change.

    python benchmarks/state_hashes.py --out before.json           on the old code
    python benchmarks/state_hashes.py --against before.json       on the new: says what differs

The worlds are those of `fedbraid.testing`: three clients, three tasks, digits, sentences or prompts. Updates are lifted
on the server, on the clients, or added under masks, always behind the gate. One thread, since equal bits need an equal
number.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from fedbraid.algebra import Tensors, raw
from fedbraid.engine import run
from fedbraid.errors import RunError, UserError
from fedbraid.local.training import Training
from fedbraid.methods import METHODS, Options, Setting, make
from fedbraid.models import Adapter
from fedbraid.runtimes.client import Masking
from fedbraid.runtimes.inprocess import in_process
from fedbraid.runtimes.limits import Limits
from fedbraid.testing import World, image_world, language_world, random_bert, random_llama, text_world

SMALL: dict[str, dict[str, Any]] = {
    "ranpac_fed": {"features": 20},
    "stsa": {"features": 20},
    "ccvr": {"samples": 8, "epochs": 1},
    "derpp": {"buffer": 6, "batch": 4},
    "ewc": {"samples": 4},
    "fisheravg": {"samples": 4},
    "coda_prompt": {"components": 3},
    "target": {"steps": 2, "generator_batch": 4, "images": 3, "batch": 4},
}
"""Options that keep a method's run short."""
ALSO: dict[str, tuple[dict[str, Any], ...]] = {
    "lorm": ({"gram": "full"}, {"gram": "low_rank"}, {"all_diagonal": True}),
    "regmean": ({"gram": "diagonal"},),
    "fedex_lora": ({"encoding": "sketch", "sketch_width": 6}, {"encoding": "dense"}, {"residual_rank": 1}),
    "fed_sb": ({"first_step": "sgd"},),
    "afl": ({"ridges": (0.1,)},),
}
"""Other options under which a method sends something else."""
WAYS: dict[str, dict[str, Any]] = {
    "server": {},
    "client": {"lift_on": "client"},
    "masked": {"masking": Masking()},
}
"""Where updates are lifted, and what the server sees of them."""
PLAN = Training(epochs=1, batch_size=16, lr=1e-3, augment=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--against", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        found = dict(_hashes(given.methods, Path(folder)))
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n")
    if given.against:
        before = {k: v for k, v in json.loads(given.against.read_text()).items() if k.split()[0] in given.methods}
        different = sorted(name for name in before.keys() | found.keys() if before.get(name) != found.get(name))
        for name in different:
            print(f"DIFFERENT {name}: {before.get(name, 'nothing')} before, {found.get(name, 'nothing')} now")
        print(f"{len(found)} runs, {len(different)} differ from {given.against}")
        sys.exit(bool(different))


def _hashes(methods: list[str], folder: Path) -> Iterator[tuple[str, str]]:
    for name in methods:
        for changed in ({}, *ALSO.get(name, ())):
            options = METHODS[name](**SMALL.get(name, {}), **changed)
            for modality in options.about.modalities:
                for way in WAYS:
                    row = " ".join([name, *(f"{key}={value}" for key, value in changed.items()), modality, way])
                    found = _hash(options, modality, way, folder)
                    print(f"{row}: {found}", flush=True)
                    yield row, found


def _hash(options: Options, modality: str, way: str, folder: Path) -> str:
    """Of the end state; where the run is refused, that it is."""
    world = make_world(modality, folder, joined=options.about.centralised)
    adapter = options.adapter(Adapter(options.about.adapters[0], rank=2, blocks="0-1"))  # type: ignore[arg-type]
    method = make(options, Setting(adapter, PLAN, 2, **world.learned))
    runtime = in_process(method, world.model(adapter), world.clients, world.evaluators, limits=Limits(), **WAYS[way])
    try:
        *_, last = run(method, world.model(adapter), world.tasks, runtime, seed=0)
    except (UserError, RunError) as error:
        print(f"{error}")
        return "refused"
    digest = hashlib.sha256()
    for part in (last.state.shared, last.state.server, runtime.kept(), last.test.total if last.test else {}):
        _add(digest, part)
    return digest.hexdigest()[:16]


def _add(digest: Any, tensors: Tensors) -> None:
    for name in sorted(tensors):
        digest.update(repr((name, tensors[name].dtype, tuple(tensors[name].shape))).encode())
        digest.update(raw(tensors[name]))


def make_world(modality: str, folder: Path, *, joined: bool) -> World:
    worlds = {
        "image": image_world,
        "text": partial(text_world, folder / "text"),
        "language": partial(language_world, folder / "language"),
    }
    if modality == "text" and not (folder / "text").is_dir():
        random_bert(folder / "text")
    if modality == "language" and not (folder / "language").is_dir():
        random_llama(folder / "language")
    return worlds[modality](joined=joined)


if __name__ == "__main__":
    main()
