"""The errors that a user is meant to read.

Each message says what happened, where, and what to do. The command line prints these without a traceback;
any other exception is a defect of ours and keeps its traceback.
"""


class UserError(ValueError):
    """The caller's fault: a wrong key, a missing file, weights that do not fit."""


class RunError(RuntimeError):
    """The world's fault: a loss that became NaN, a full disk, a damaged state file."""


class StoppedRun(RunError):
    """A run that ended early with its state saved; it can be resumed."""
