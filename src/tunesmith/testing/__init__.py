"""Public test tools: tiny random models and batteries that any technique or task must pass.

from tunesmith.testing import check_technique, tiny_model
"""

from __future__ import annotations

from tunesmith.testing.models import KINDS, RECURRENT, tiny_model
from tunesmith.testing.techniques import check_technique

__all__ = ["KINDS", "RECURRENT", "check_technique", "tiny_model"]
