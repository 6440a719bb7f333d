"""What an evaluation measures: predictions, continuations and weights. Imports runs' columns, config, data and model."""
