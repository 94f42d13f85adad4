"""None: each stage is trained on its own rows alone, the lower bound of continual learning."""

from __future__ import annotations

from typing import ClassVar

from tunesmith.continual._base import Strategy


class NoStrategy(Strategy):
    """Nothing is done to keep earlier stages."""

    looks_back: ClassVar[bool] = False
