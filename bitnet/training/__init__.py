"""The training loop and its parts: schedules, losses, optimizers, checkpoints; from a frozen run folder to its outcome.

Imports common, runs, config, data, model and evaluation.
"""
