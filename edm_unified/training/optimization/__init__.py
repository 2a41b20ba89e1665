"""Optimization: optimizers, learning rates, and averages of the weights."""
