"""The folder of a run and its files: names, records, metrics, checkpoints' names, signs of life. Imports common."""
