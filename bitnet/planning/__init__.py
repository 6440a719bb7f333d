"""What a command would do: its runs, their memory, time and disk, and what would go wrong.

Imports common, runs, config, data, model, evaluation, training, cli, launch and sweep; torch only in `cost` and what measures
with it.
"""
