"""Measuring: metrics of a model on rows, predictions, and what a run costs."""
