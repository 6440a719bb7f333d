"""What an evaluation measures: predictions, continuations and weights.

Imports common, runs.columns, config, data and model.
"""
