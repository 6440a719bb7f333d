"""Whether a configuration computes what it should, tried on the run itself before it starts. Imports training and below."""
