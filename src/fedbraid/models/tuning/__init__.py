"""What is tuned of a backbone, one kind of adapter a file: each puts its parameters into the module and loads them."""

from fedbraid.models.tuning.base import Tuning
from fedbraid.models.tuning.kinds import tune

__all__ = ["Tuning", "tune"]
