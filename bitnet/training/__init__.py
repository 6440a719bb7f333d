"""The training loop and its parts: schedules, losses, optimizers, checkpoints; from a frozen run folder to its outcome.
Imports everything below it: common, runs, config, data, model, evaluation.
"""
