"""A run is one folder: everything that is needed to continue it, to repeat it and to look at it.

    config.toml      the whole configuration; `fedbraid run config.toml` repeats the run
    environment.json versions, machine class, and the SHA-256 of the two files that the numbers follow from
    partition.json   which client holds which samples
    summary.json     what is run on what, in the words of the report
    events.jsonl     one record a finished round
    activity.jsonl   what happened when: who was asked, answered, failed, was refused (see `activity`)
    privacy.json     what has left the clients, of each kind of message the worst (see `privacy.guard`)
    journal/         the answers received in the unfinished round
    clients/         what simulated parties hold, where Flower runs them (see `sites`)
    state/           the newest generations of the state (see `checkpoint`)
    results.json     the metrics and health signs, once the run is finished
    report.html      the report

After every round the record is appended and synced, then the state is written with the length of the log that belongs
to it; a log that is ahead of the state is cut back when the run is resumed. So the folder can be left at any moment.
"""

from fedbraid.runs.extension import change_sites, extend
from fedbraid.runs.folder import read_config, read_summary, summary
from fedbraid.runs.results import costs, judge, measured, read_results, write_report
from fedbraid.runs.running import Run, resume, start

__all__ = [
    "Run",
    "change_sites",
    "costs",
    "extend",
    "judge",
    "measured",
    "read_config",
    "read_results",
    "read_summary",
    "resume",
    "start",
    "summary",
    "write_report",
]
