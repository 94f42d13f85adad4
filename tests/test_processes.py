"""Helper processes end with the process that started them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_nursery_ends_when_its_owner_ended_before_it_was_ready(tmp_path: Path) -> None:
    """A refused run is over sooner than the nursery's imports; a nursery that stayed would hold its caller's pipe forever."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    address = tmp_path / "place" / "nursery"
    address.parent.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(address))
        listener.listen(1)
        command = [
            sys.executable, "-m", "tunesmith.processes", "--nursery", str(address), str(listener.fileno()), str(gone.pid),
        ]  # fmt: skip
        done = subprocess.run(command, pass_fds=[listener.fileno()], stdin=subprocess.DEVNULL, timeout=300, check=False)
    assert done.returncode == 0
    assert not address.exists()
