"""Checks for every task, one family a file; every file here is read."""
