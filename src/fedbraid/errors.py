"""The errors that a user is meant to read.

Each message says what happened, where, and what to do. The command line prints these without a traceback;
any other exception is a defect of ours and keeps its traceback.

A message may hold what is its owner's alone: a value, a path, a name of a column. So where an error leaves the machine
that it happened on, its `code` travels and the message stays (see `deployment.faults`).
"""


class _Coded(Exception):
    code = "failed"

    def __init__(self, message: object = "", *, code: str | None = None, needed: int | None = None) -> None:
        super().__init__(message)
        self.code = code or type(self).code
        self.needed = needed


class UserError(_Coded, ValueError):
    """The caller's fault: a wrong key, a missing file, weights that do not fit."""

    code = "settings"


class RunError(_Coded, RuntimeError):
    """The world's fault: a loss that became NaN, a full disk, a damaged state file."""

    code = "failed"


class StoppedRun(RunError):
    """A run that ended early with its state saved; it can be resumed."""
