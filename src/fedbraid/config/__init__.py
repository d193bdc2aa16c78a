"""The configuration of a run: TOML in, validated settings out, every error with its key.

A run's configuration is complete: `Config()` is the default run, a file or `--set key=value` changes parts of it, and
the `config.toml` of a run folder holds every value, so that it can be run again.
"""

from fedbraid.config.building import adapter, capacities, options, training
from fedbraid.config.checking import near, parse
from fedbraid.config.reading import read, recipe_title, recipes, to_toml
from fedbraid.config.sections import Config, Section

__all__ = [
    "Config",
    "Section",
    "adapter",
    "capacities",
    "near",
    "options",
    "parse",
    "read",
    "recipe_title",
    "recipes",
    "to_toml",
    "training",
]
