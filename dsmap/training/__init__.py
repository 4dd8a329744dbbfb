"""Training: objective, optimisation, data, checkpoints."""
