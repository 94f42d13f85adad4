"""Malformed inputs of every task: each is refused in one sentence with exit code 2, and nothing is left behind."""
