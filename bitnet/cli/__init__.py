"""The command line as people type it: overrides, composition by Hydra, errors in one line, `--help`.

Imports common and config; all of Hydra that is private stands in `hydra_internals`.
"""
