"""How the weights move: optimizers, learning rates, and averages of the weights."""
