"""The transformer of BitLinear layers and its quantisers, computed with torch. Imports common, runs.columns and config."""
