"""Strategies: how earlier tasks are kept while a later one is learned. One file each."""
