"""The vocabulary of the package: task, round, state, samples, model, phase, method, runtime, outcome, event.

A method is a mapping of phases; a phase is one kind of communication round; a runtime takes the sum of a round over
its clients. Everything here is plain data or a protocol, so a method, a runtime and the engine know of each other only
through this package.
"""

from fedbraid.core.method import EVALUATE, KEEP, Event, Method, Outcome, Phase, Refusal, Runtime
from fedbraid.core.model import Model
from fedbraid.core.rounds import ClientId, Round, State, Task
from fedbraid.core.samples import IGNORED, Batch, Client, Data, ImageInput, PromptInput, Text, TextInput

__all__ = [
    "EVALUATE",
    "IGNORED",
    "KEEP",
    "Batch",
    "Client",
    "ClientId",
    "Data",
    "Event",
    "ImageInput",
    "Method",
    "Model",
    "Outcome",
    "Phase",
    "PromptInput",
    "Refusal",
    "Round",
    "Runtime",
    "State",
    "Task",
    "Text",
    "TextInput",
]
