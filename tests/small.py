"""What small runs are made of: so little data and so small a model that a run takes a blink and is still a real one."""

from __future__ import annotations

DATA = ["data=synthetic", "data.tokens=20000", "data.heldout_tokens=2000", "data.vocab_size=64"]
SMALL = [*DATA, "probe.heldout_sequences=4", "threads=1"]
TINY = [*SMALL, "model=tiny"]

FEW_PROBES = ["probe.many_contexts=20", "probe.prompts=4", "probe.new_tokens=8"]
NO_PROBES = ["probe.many_contexts=0", "probe.prompts=0"]
