"""What it took: bytes, seconds and loss of each round, and how the samples are spread over the clients."""

from __future__ import annotations

from collections.abc import Sequence

from fedbraid.reports.charts import Column, Line, Part, column_chart, line_chart
from fedbraid.reports.html_numbers import Step, Traffic, counted, duration, size, size_mark, task_name
from fedbraid.reports.html_run import Run, bands, figure, no_figure, where


def bytes_figure(run: Run) -> str:
    """Bytes of each round in both directions, per client."""
    series = [("up", [step.up for step in run.steps]), ("down", [step.down for step in run.steps])]
    known = [(kind, values) for kind, values in series if any(traffic and traffic.high for traffic in values)]
    if not known:
        return no_figure("Bytes per round", "No bytes were sent, or none recorded.")

    def draw(width: float) -> str:
        return line_chart(
            [_traffic_line(run, kind, values) for kind, values in known],
            title="Bytes per round",
            description=". ".join(f"{kind}: mean {size(_mean(values))} per round" for kind, values in known),
            width=width,
            height=270,
            steps=len(run.steps),
            show=size_mark,
            low=0.0,
            bands=bands(run),
            tips=[(step.place, _traffic_tip(run, step)) for step in run.steps],
            stepped=True,
        )

    means = ", ".join(f"{kind} {size(_mean(values))}".replace(" ", "\xa0") for kind, values in known)
    caption = f"Per client; shaded from least to most where clients differ. Mean of a round: {means}."
    return figure("Bytes per round", caption, draw)


def seconds_figure(run: Run) -> str:
    """Seconds of each round."""
    if not any(step.seconds for step in run.steps):
        return no_figure("Seconds per round", "No times were recorded.")
    total = sum(step.seconds or 0.0 for step in run.steps)

    def draw(width: float) -> str:
        return column_chart(
            [Column("", [step.seconds or 0.0], f"{where(run, step)}\n{duration(step.seconds)}") for step in run.steps],
            [Part("")],
            title="Seconds per round",
            description=f"{duration(total)} in {counted(len(run.steps), 'round')}.",
            width=width,
            height=270,
            show=lambda value: f"{value:g} s",
            label="communication round",
            bands=bands(run),
        )

    return figure("Seconds per round", "Wall-clock time from broadcast to the new state.", draw)


def loss_figure(run: Run) -> str:
    """The training loss of each round, one curve per task."""
    losses = [step for step in run.steps if step.loss is not None]
    if not losses:
        return no_figure("Training loss", "No training loss was recorded.")
    points: list[tuple[float, float | None]] = []
    for before, step in zip([losses[0], *losses], losses, strict=False):
        if before.task != step.task:
            points.append((step.place, None))
        points.append((step.place, step.loss))

    def draw(width: float) -> str:
        return line_chart(
            [Line(name="", value=f"{losses[-1].loss:#.3g}", points=points, kind="loss")],
            title="Training loss",
            description=f"From {losses[0].loss:#.3g} at first to {losses[-1].loss:#.3g} in the last round.",
            width=width,
            height=270,
            steps=len(run.steps),
            show=lambda value: f"{value:g}",
            low=min(0.0, *(step.loss or 0.0 for step in losses)),
            bands=bands(run),
            tips=[(step.place, f"{where(run, step)}\nloss {step.loss:#.4g}") for step in losses],
        )

    return figure("Training loss", "Mean over the clients of a round; every task begins anew.", draw)


def samples_figure(run: Run) -> str:
    """How the samples of each task are spread over the clients."""
    partition = run.results.get("partition") or {}
    samples = {str(client): list(counts) for client, counts in (partition.get("samples") or {}).items()}
    tasks = max((len(counts) for counts in samples.values()), default=0)
    if not tasks:
        return no_figure("Samples by client", "The partition was not recorded.")
    columns = [
        Column(
            name=client,
            parts=[*counts, *[0] * (tasks - len(counts))],
            tip=f"client {client}: {sum(counts):,} samples\n"
            + "\n".join(f"{task_name(task)}: {count:,}" for task, count in enumerate(counts)),
            top=f"{sum(counts):,}",
        )
        for client, counts in samples.items()
    ]
    totals = [sum(column.parts[task] for column in columns) for task in range(tasks)]

    def draw(width: float) -> str:
        return column_chart(
            columns,
            [Part(task_name(task), f"{total:,}", run.place(task)) for task, total in enumerate(totals)],
            title="Samples by client",
            description=f"{sum(totals):,} training samples over {len(columns)} clients, stacked by task.",
            width=width,
            height=270,
            show=lambda value: f"{value:,g}" if value < 1e6 else f"{value / 1e6:g} M",
            label="client",
            named=True,
        )

    kind = f" ({partition['kind']} partition)" if partition.get("kind") else ""
    caption = f"Training samples of each client{kind}, stacked by task. Labels: all samples of a task."
    return figure("Samples by client", caption, draw)


def _traffic_line(run: Run, kind: str, rounds: Sequence[Traffic | None]) -> Line:
    pairs = list(zip(run.steps, rounds, strict=True))
    return Line(
        name=kind,
        value="",
        points=[(step.place, traffic.mean if traffic else None) for step, traffic in pairs],
        kind=kind,
        spread=[(step.place, traffic.low, traffic.high) for step, traffic in pairs if traffic],
    )


def _traffic_tip(run: Run, step: Step) -> str:
    lines = [where(run, step), f"{step.reported} of {step.reported + step.idle} clients"]
    for kind, traffic in (("up", step.up), ("down", step.down)):
        if traffic:
            differ = f" ({size(traffic.low)} to {size(traffic.high)})" if traffic.high > traffic.low else ""
            lines.append(f"{kind} {size(traffic.mean)}{differ}")
    return "\n".join(lines)


def _mean(rounds: Sequence[Traffic | None]) -> float | None:
    known = [traffic.mean for traffic in rounds if traffic]
    return sum(known) / len(known) if known else None
