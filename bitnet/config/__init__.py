"""The configuration as typed, frozen objects, every key with its bounds; claims; a run's identity. Imports common and the
columns of runs; neither torch nor Hydra.
"""
