"""What a person reads: verdicts in words, tables as text, figures, the HTML page.

Imports common, runs, config, analysis and verdicts.
"""
