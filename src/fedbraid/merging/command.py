"""`fedbraid merge`: adapter folders in, one adapter folder or one whole model out, with a certificate of what it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp

from torch import Tensor

from fedbraid.errors import RunError, UserError
from fedbraid.merging.agreement import check_agreement, mean_of_whole
from fedbraid.merging.certificate import Certificate, certify, layer_fact, whole_error
from fedbraid.merging.folders import read_adapter
from fedbraid.merging.grams import Measure, measured
from fedbraid.merging.layer import Inputs, Updates, gathered, layers_of, normalised
from fedbraid.merging.merge import check_rank
from fedbraid.merging.outputs import Output, Plan, as_adapter, as_model
from fedbraid.merging.rules import Options, rule_of
from fedbraid.models import load_backbone

FORMATS = {"adapter": as_adapter, "merged": as_model}
CERTIFICATE = "certificate.json"


@dataclass(frozen=True)
class Sources:
    """The base model, and what Grams are measured on where a rule needs them: one data set for all adapters or each."""

    base: str = ""
    data: Sequence[str] = ()
    samples: int = 1000
    off_diagonal: float = 0.9
    device: str = "auto"


@dataclass(frozen=True)
class Request:
    """What to merge, how, and where to; `force` overwrites an earlier result."""

    adapters: Sequence[Path]
    rule: str
    out: Path
    format: str = "adapter"
    weights: Sequence[float] | None = None
    rank: int | None = None
    options: Options = field(default_factory=Options)
    sources: Sources = field(default_factory=Sources)
    force: bool = False


def merge_folders(request: Request) -> Certificate:
    """Writes the merge of adapter folders to a new folder; its certificate, which also lies there.

    The folder appears when all is written and the certificate holds: an error leaves nothing behind.
    Raises `UserError` for adapters that cannot be merged and for a folder that is in the way.
    """
    rule = rule_of(request.rule)
    _check(request)
    adapters = [read_adapter(path) for path in request.adapters]
    weights = normalised(request.weights, len(adapters))
    check_agreement(adapters)
    updates = [{name: layer.pair for name, layer in adapter.layers.items()} for adapter in adapters]
    inputs = _inputs(request, updates, weights)
    plan = Plan(
        rule,
        request.options,
        request.rank,
        list(layers_of(updates, weights, inputs)),
        adapters,
        mean_of_whole(adapters, weights),
        request.sources.base,
    )
    with _draft(request.out, request.force) as draft:
        output = FORMATS[request.format](plan, draft)
        certificate = _certificate(request, plan, output, draft)
        (draft / CERTIFICATE).write_text(json.dumps(certificate.record(), indent=2) + "\n", encoding="utf-8")
    return certificate


def _certificate(request: Request, plan: Plan, output: Output, folder: Path) -> Certificate:
    return certify(
        plan.layers,
        lambda layer: layer_fact(request.rule, layer, plan.options, plan.adapters, output.written(layer)),
        rule=request.rule,
        format=request.format,
        adapters=plan.adapters,
        rank=request.rank,
        whole_error=whole_error(output.whole, plan.adapters, plan.layers[0].weights),
        size=sum(file.stat().st_size for file in folder.rglob("*.safetensors")),
        notes=_notes(plan),
    )


def _notes(plan: Plan) -> list[str]:
    """What the user may not have meant."""
    partly = sum(layer.tuned_by < len(plan.adapters) for layer in plan.layers)
    notes = [
        f"{partly} of {len(plan.layers)} layers are tuned by some adapters only; the others leave them as they are"
    ]
    heads = [adapter.path / "head.safetensors" for adapter in plan.adapters]
    left_out = [f"{head} is no part of a PEFT adapter and is left out" for head in heads if head.is_file()]
    return (notes if partly else []) + left_out


def _inputs(request: Request, updates: Sequence[Updates], weights: Tensor) -> Mapping[str, Inputs]:
    """Grams of the layers' inputs, where the rule needs them."""
    form = rule_of(request.rule).grams
    if form == "none":
        return {}
    from fedbraid.experiment import device

    given = request.sources
    measure = Measure(form, given.samples, given.off_diagonal, seed=request.options.seed, device=device(given.device))
    return gathered(updates, weights, measured(updates, load_backbone(given.base), given.data, measure))


def _check(request: Request) -> None:
    check_rank(request.rank)
    if not request.adapters:
        raise UserError("there is nothing to merge; give the folder of one adapter at least")
    if request.format not in FORMATS:
        raise UserError(f"--format {request.format!r} is none of {', '.join(FORMATS)}")
    if request.format == "merged" and not request.sources.base:
        raise UserError("--format merged needs the model to add the update to; give it as --base")
    needs = rule_of(request.rule).grams != "none"
    if needs and not (request.sources.base and request.sources.data):
        raise UserError(f"{request.rule} measures the layers' inputs; give the base model as --base and data as --data")
    if request.sources.data and not needs:
        raise UserError(f"{request.rule} reads no data; leave --data out, or choose regmean or lorm")
    out = _resolved(request.out)
    for adapter in request.adapters:
        place = _resolved(adapter)
        if out == place or out in place.parents:
            raise UserError(f"--out {request.out} would overwrite the adapter {adapter}; choose another folder")


def _resolved(path: Path) -> Path:
    """The path behind links; `UserError` for links that go round, and names that no folder can have."""
    try:
        path.exists()
        return path.resolve()
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path} cannot be the path of a folder ({error}); choose another") from error


@contextmanager
def _draft(out: Path, force: bool) -> Iterator[Path]:
    """A folder beside `out` that takes its place when all has gone well."""
    _check_out(out, force)
    out = out.resolve()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        room = Path(mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise UserError(f"cannot make {out}: {error}; choose another --out") from error
    try:
        draft = room / out.name
        draft.mkdir()
        yield draft
        if out.exists():
            shutil.rmtree(out)
        draft.rename(out)
    except OSError as error:
        raise RunError(f"cannot write {out}: {error}; make room, or choose another --out") from error
    finally:
        shutil.rmtree(room, ignore_errors=True)


def _check_out(out: Path, force: bool) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; choose another --out")
    if not out.exists() or not any(out.iterdir()):
        return
    if not (out / CERTIFICATE).is_file():
        raise UserError(f"{out} is not empty and no result of 'fedbraid merge'; choose another --out")
    if not force:
        raise UserError(f"{out} holds an earlier result; choose another --out, or overwrite it with --force")
