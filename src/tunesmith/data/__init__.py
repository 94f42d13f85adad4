"""Rows: where they come from, how they are split, and the order in which batches are made of them."""
