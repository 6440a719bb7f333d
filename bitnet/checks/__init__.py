"""Whether a configuration computes what it should, tried on the run itself before it starts.

Imports common, runs, config, data, model, evaluation and training.
"""
