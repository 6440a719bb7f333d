"""The transformer of BitLinear layers and its quantisers. Imports common and config; computes with torch."""
