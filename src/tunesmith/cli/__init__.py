"""The command line: a thin layer of flags over the Python functions."""
