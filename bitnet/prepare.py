"""`python -m bitnet.prepare`: tokenise a corpus once, before a fan-out."""

from __future__ import annotations

import argparse
import sys

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

from bitnet.errors import UserError
from bitnet.overrides import explain, normalise
from bitnet.paths import share
from bitnet.train import register_plugins, search_path

_EPILOG = """examples:
  bitnet-prepare                                              the default corpus (pydocs) and its tokenizer
  bitnet-prepare data=wikitext103                             WikiText-103 with the tokenizer that the defaults name
  bitnet-prepare data=wikitext2 tokenizer=gpt2                the study's corpus and tokenizer
  bitnet-prepare data=text 'data.paths=[my/folder]' tokenizer.vocab_size=4096

Give the data=, tokenizer= and recipe= overrides that the training command will have: what is prepared depends on them.
Prepared twice, the same corpus is only checked."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="bitnet-prepare",
        description="Read, tokenise and store a corpus as memory-mapped token files with a manifest.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="overrides, as for bitnet.train")
    arguments = parser.parse_args(argv)
    register_plugins()
    try:
        from bitnet import arms, data

        with initialize_config_dir(str(share() / "conf"), version_base="1.3"):
            composed = compose("config", search_path([normalise(o) for o in arguments.overrides]))
        config = arms.typed(composed)
        prepared = data.prepare(config.data, config.tokenizer)
    except (UserError, HydraException) as error:
        print(f"error: {explain(error) if isinstance(error, HydraException) else error}", file=sys.stderr)
        return 2
    print(f"folder            {prepared.folder}")
    print(f"training tokens   {len(prepared.train):,}")
    print(f"held-out tokens   {len(prepared.heldout):,}")
    print(f"vocabulary        {prepared.vocab_size:,}")
    print(f"unigram entropy   {prepared.unigram_entropy:.3f} nats")
    print(f"sha256            {prepared.sha256}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
