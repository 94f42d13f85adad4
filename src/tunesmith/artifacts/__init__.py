"""What a run leaves for use: saved atomically, opened again, verified."""
