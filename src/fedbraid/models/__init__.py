"""Models: what is frozen and what is tuned."""

from fedbraid.models.adapted import AdaptedModel
from fedbraid.models.adapters import Adapter
from fedbraid.models.backbones import Backbone, load_backbone

__all__ = ["AdaptedModel", "Adapter", "Backbone", "load_backbone"]
