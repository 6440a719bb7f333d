"""From a command to its runs: the one expansion of a sweep, frozen run folders, the controller; Hydra's plugins.

Imports common, runs, config, data, training, cli and launch.
"""
