"""Models: what is frozen and what is tuned."""

from fedbraid.models.adapted import AdaptedModel
from fedbraid.models.adapters import Adapter
from fedbraid.models.backbones import Backbone, load_backbone
from fedbraid.models.causal import CausalBackbone, load_causal
from fedbraid.models.language import LanguageModel

__all__ = [
    "AdaptedModel",
    "Adapter",
    "Backbone",
    "CausalBackbone",
    "LanguageModel",
    "load_backbone",
    "load_causal",
]
