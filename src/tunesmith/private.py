"""Keep secrets out of what is printed and written: values of the environment whose names say so, and passwords in addresses."""

from __future__ import annotations

import os
import re

NAMES = re.compile(r"TOKEN|SECRET|PASSW|API_?KEY|CREDENTIAL", re.IGNORECASE)
IN_ADDRESS = re.compile(r"(?<=://)[^/\s@]+(?=@)")
SHORTEST = 8
"""A shorter value (`true`, `1`) is a setting, and too many words would hold it."""
HIDDEN = "***"


def hide(text: str) -> str:
    """A text without secrets that this process knows.

    Examples:
        >>> hide("no model at https://me:password@example.org/m")
        'no model at https://***@example.org/m'
    """
    for name, value in os.environ.items():
        if len(value) >= SHORTEST and NAMES.search(name):
            text = text.replace(value, HIDDEN)
    return IN_ADDRESS.sub(HIDDEN, text)
