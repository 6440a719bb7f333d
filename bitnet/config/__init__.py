"""The configuration as typed, frozen objects, every key with its bounds; claims; a run's identity.

Imports common and runs.columns; neither torch nor Hydra.
"""
