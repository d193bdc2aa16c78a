"""All that a method of one's own needs, from one place (see `docs/add-a-method.md`).

what a method is      Options, About, Setting, Method
its phases            Train, Measure, Measured, serve; averaging and carried make the usual ones
what travels          quantities: one for every kind of tensor
how it is merged      Merge, Statistic; values, select and model_values pick tensors by their names
what is given         Model, Data, Round, State, Tensors
besides               linalg: solves and triangles; require: an option out of range
"""

from fedbraid import linalg, quantities
from fedbraid.algebra import Statistic, Tensors, select
from fedbraid.core import Data, Method, Model, Round, State
from fedbraid.merges import Merge
from fedbraid.merges.base import values
from fedbraid.methods.base import About, Options, Setting, model_values, require
from fedbraid.methods.fedavg import averaging, carried
from fedbraid.phases import Measure, Measured, Train, serve

__all__ = [
    "About",
    "Data",
    "Measure",
    "Measured",
    "Merge",
    "Method",
    "Model",
    "Options",
    "Round",
    "Setting",
    "State",
    "Statistic",
    "Tensors",
    "Train",
    "averaging",
    "carried",
    "linalg",
    "model_values",
    "quantities",
    "require",
    "select",
    "serve",
    "values",
]
