"""Commands that take trained models further: export, merge, predict."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fedbraid.cli.app import AsJson, Folder, app
from fedbraid.naming import printable
from fedbraid.terminal import print_json, print_table, tell


@app.command()
def export(
    run: Folder,
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    format: Annotated[str, typer.Option(help="peft (an adapter), peft+residual (two), or merged (a model).")] = "peft",
) -> None:
    """Write the tuned model: as a PEFT adapter, or merged into its backbone."""
    from fedbraid.export import export_run

    tell(export_run(run, out, format=format))


@app.command()
def merge(
    adapter: Annotated[list[Path], typer.Argument(help="Adapter folders, as peft writes them.", metavar="ADAPTER...")],
    rule: Annotated[str, typer.Option(help="average, fedex, factors, ties, dare, regmean or lorm.")],
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    weights: Annotated[str, typer.Option(help="What each adapter counts, as 0.2,0.3,0.5; equal otherwise.")] = "",
    rank: Annotated[int | None, typer.Option(help="Bounds the rank of the result.")] = None,
    format: Annotated[str, typer.Option(help="adapter (a PEFT folder) or merged (a whole model).")] = "adapter",
    base: Annotated[str, typer.Option(help="The adapters' base model, for merged, regmean and lorm.")] = "",
    data: Annotated[list[str] | None, typer.Option(help="For regmean and lorm; one, or one for each adapter.")] = None,
    samples: Annotated[int, typer.Option(help="At most so many samples are read of each data set.")] = 1000,
    keep: Annotated[float, typer.Option(help="The share of entries that ties and dare keep.")] = 0.2,
    ridge: Annotated[float, typer.Option(help="The ridge to the mean of regmean and lorm.")] = 1e-6,
    off_diagonal: Annotated[float, typer.Option(help="Scales the off-diagonals of regmean's Grams.")] = 0.9,
    seed: Annotated[int, typer.Option(help="Of dare's draws and of the choice of samples.")] = 0,
    device: Annotated[str, typer.Option(help="Where Grams are measured: auto, cpu, cuda, ...")] = "auto",
    force: Annotated[bool, typer.Option(help="Overwrite an earlier result.")] = False,
    as_json: AsJson = False,
) -> None:
    """Merge PEFT adapters by a closed-form rule, and certify the result."""
    from fedbraid import merging
    from fedbraid.merging import showing

    options, shares = merging.Options(keep, seed, ridge), showing.weights_of(weights)
    sources = merging.Sources(base, data or (), samples, off_diagonal, device)
    request = merging.Request(adapter, rule, out, format, shares, rank, options, sources, force)
    with showing.progress():
        certificate = merging.merge_folders(request)
    if as_json:
        print_json(certificate.record())
        return
    print_table(showing.HEADINGS, showing.rows(certificate, limit=12 if sys.stdout.isatty() else None))
    tell(showing.in_words(certificate, out), err=not sys.stdout.isatty())


@app.command()
def predict(
    run: Folder,
    inputs: Annotated[
        list[str],
        typer.Argument(help="Image files, or texts (@FILE reads one a line; a tab parts a pair).", metavar="INPUT..."),
    ],
    as_json: AsJson = False,
) -> None:
    """Classify images or texts with the model of a run, or let its language model answer prompts."""
    from fedbraid.export import predict_run

    rows = predict_run(run, inputs)
    if as_json:
        print_json(rows)
        return
    for row in rows:
        if "text" in row:
            tell(row["text"])
            continue
        said = f"{row['value']:.3f}" if "value" in row else f"{printable(row['label'])}\t{row['probability']:.3f}"
        tell(f"{said}\t{printable(row['input'])}")
