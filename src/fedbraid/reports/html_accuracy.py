"""What was learned: accuracy along the run, the accuracy matrix, forgetting."""

from __future__ import annotations

from collections.abc import Sequence

from fedbraid.reports.charts import Bar, Line, bar_rows, heat_map, line_chart
from fedbraid.reports.html_numbers import FIRST, Step, best_and_final, ends_of_tasks, percent, task_name
from fedbraid.reports.html_run import NARROW, Run, bands, figure, no_figure, where


def accuracy_figure(run: Run) -> str:
    """The convergence picture: accuracy over all classes seen, and on each task, after each evaluation."""
    evaluated = [step for step in run.steps if step.overall is not None]
    if not evaluated:
        return no_figure("Accuracy over the run", "No round has been evaluated.", full=True)
    ends, tasks = ends_of_tasks(run.steps), max(len(step.accuracy) for step in evaluated)
    values = [value for step in evaluated for value in (*step.accuracy, step.overall) if value is not None]

    def draw(width: float) -> str:
        wide = width > NARROW
        lines = [_task_line(run, evaluated, task, wide) for task in range(tasks)] if tasks > 1 else []
        main = Line(
            name="all seen" if wide else "all",
            value=percent(evaluated[-1].overall),
            points=[(step.place, step.overall) for step in evaluated],
            kind="main",
            dots=[(step.place, step.overall) for step in ends if step.overall is not None],
        )
        return line_chart(
            [*(line for line in lines if any(y is not None for _, y in line.points)), main],
            title="Accuracy over the run",
            description=f"Accuracy over all classes seen after each task: {_listed(run, ends)}.",
            width=width,
            height=430 if wide else 340,
            steps=len(run.steps),
            show=lambda value: f"{100 * value:g}%",
            low=max(0.0, min(min(values), max(values) - 0.2)),
            bands=bands(run, notes=True),
            tips=[(step.place, _accuracy_tip(run, step)) for step in evaluated],
        )

    caption = (
        "Test accuracy after each evaluated communication round. Bold: over all classes seen so far, with a "
        "dot at the end of each task. Thin: on the classes of one task."
    )
    return figure("Accuracy over the run", caption, draw, full=True)


def matrix_figure(run: Run) -> str:
    """The accuracy matrix as a heat map."""
    known = [value for row in run.matrix for value in row if value is not None]
    if not known:
        return no_figure("Accuracy matrix", "No task has been evaluated.")

    def tip(i: int, j: int) -> str:
        after = "after all tasks" if run.together else f"after {task_name(i)}"
        return f"{task_name(j)} {after}: {percent(run.matrix[i][j])}\n{run.classes(j)}".strip()

    def draw(width: float) -> str:
        columns = range(max(len(row) for row in run.matrix))
        names = ["after all"] if run.together else [f"after {i + FIRST}" for i in range(len(run.matrix))]
        return heat_map(
            run.matrix,
            row_names=names,
            column_names=[task_name(j) for j in columns],
            short_names=[str(j + FIRST) for j in columns],
            tip=tip,
            title="Accuracy matrix",
            description="Accuracy in percent; rows: after which task; columns: on the classes of which task.",
            width=width,
            low=max(0.0, int((min(known) - 0.05) * 10) / 10),
        )

    caption = "Accuracy in percent on the classes of each task (columns) after each task was learned (rows)."
    if not run.finished:
        caption += " The last row is as of now."
    return figure("Accuracy matrix", caption, draw)


def forgetting_figure(run: Run) -> str:
    """What each task lost since its best, as bars."""
    pairs = best_and_final(run.matrix)
    if not pairs:
        reason = (
            "All tasks are learned at once: nothing can be forgotten."
            if run.together
            else "Defined from the second task on."
        )
        return no_figure("Forgetting by task", reason)
    bars = [
        Bar(
            name=task_name(task),
            size=best - final,
            value=percent(best - final),
            note=f"{percent(best)} → {percent(final)}",
            tip=f"{task_name(task)}: best {percent(best)}, now {percent(final)}\n{run.classes(task)}".strip(),
        )
        for task, (best, final) in pairs.items()
    ]

    def draw(width: float) -> str:
        return bar_rows(
            bars,
            title="Forgetting by task",
            description="Best earlier accuracy minus final accuracy of each task but the last.",
            width=width,
            heading="best → final",
        )

    caption = "Best earlier accuracy minus final accuracy, for every task but the last; negative is a gain."
    return figure("Forgetting by task", caption, draw)


def _task_line(run: Run, evaluated: Sequence[Step], task: int, wide: bool) -> Line:
    points = [(step.place, step.accuracy[task]) for step in evaluated if task < len(step.accuracy)]
    last = next((value for _, value in reversed(points) if value is not None), None)
    return Line(
        name=task_name(task) if wide else str(task + FIRST),
        value=percent(last),
        points=points,
        kind="task",
        place=run.place(task),
    )


def _accuracy_tip(run: Run, step: Step) -> str:
    lines = [where(run, step), f"all classes seen: {percent(step.overall)}"]
    lines += [f"{task_name(task)}: {percent(value)}" for task, value in enumerate(step.accuracy)]
    return "\n".join(lines)


def _listed(run: Run, ends: Sequence[Step]) -> str:
    return ", ".join(f"{run.learned(step.task)} {percent(step.overall)}" for step in ends)
