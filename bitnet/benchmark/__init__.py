"""How fast a step and a sweep are, beside other ways to train the same model. Measures; changes nothing in training."""
