"""Command lines of fed-mammoth, the public code of LoRM (github.com/aimagelab/fed-mammoth), as configurations."""

from fedbraid.mammoth.translation import Row, Translation, translate

__all__ = ["Row", "Translation", "translate"]
