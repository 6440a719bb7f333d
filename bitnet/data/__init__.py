"""From text to batches: corpora, tokenizers, prepared token files, batches and held-out text. Imports common and config."""
