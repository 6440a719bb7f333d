"""Run folders as frames, and what they say: tables, statistics, collapse, the published figures.

Imports common, runs and config; neither torch nor Hydra.
"""
