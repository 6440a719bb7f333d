"""What a command would do: its runs, their memory, time and disk, and what would go wrong. Imports sweep and below; torch only
in `cost` and what measures with it.
"""
