"""How fast a step and a sweep are, beside other ways to train the same model. Measures; changes nothing in training.

Imports common, runs, config, data, training, cli, planning and reporting.text_layout.
"""
