"""Contracts for what others write: call `check_method` or `check_merge` in a test of your own.

Each raises `AssertionError` saying what does not hold. The worlds that methods are checked in are small and real: a
stream of digits for the embedded vision transformer, a stream of sentences for a BERT with random weights, a stream of
prompts with answers for a Llama with random weights.
"""

from fedbraid.testing.language import random_llama, save_causal
from fedbraid.testing.merges import check_merge
from fedbraid.testing.methods import check_method
from fedbraid.testing.worlds import World, image_world, language_world, random_bert, save_tokenizer, text_world

__all__ = [
    "World",
    "check_merge",
    "check_method",
    "image_world",
    "language_world",
    "random_bert",
    "random_llama",
    "save_causal",
    "save_tokenizer",
    "text_world",
]
