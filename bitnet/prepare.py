"""`python -m bitnet.prepare`: tokenise a corpus once, before a fan-out."""

from __future__ import annotations

import argparse
import sys

from bitnet.errors import UserError
from bitnet.overrides import refuse
from bitnet.stopping import like_ctrl_c
from bitnet.train import complain, composed, register_plugins

_EPILOG = """examples:
  bitnet-prepare                                              the default corpus (pydocs) and its tokenizer
  bitnet-prepare data=wikitext103                             WikiText-103 with the tokenizer that the defaults name
  bitnet-prepare data=wikitext2 tokenizer=gpt2                the study's corpus and tokenizer
  bitnet-prepare data=text 'data.paths=[my/folder]' tokenizer.vocab_size=4096

Give the data=, tokenizer= and recipe= overrides that the training command will have: what is prepared depends on them.
Prepared twice, the same corpus is only checked."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bitnet-prepare",
        description="Read, tokenise and store a corpus as memory-mapped token files with a manifest.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="overrides, as for bitnet.train")
    parser.error = refuse
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    register_plugins()
    try:
        overrides = _parser().parse_args(argv).overrides
        from bitnet import arms, data

        config = arms.typed(composed(overrides))
        with like_ctrl_c():
            prepared = data.prepare(config.data, config.tokenizer)
    except UserError as error:
        return complain(error, sweeps=False)
    except KeyboardInterrupt:
        print("interrupted; the same command starts over", file=sys.stderr)
        return 130
    print(f"folder            {prepared.folder}")
    print(f"training tokens   {len(prepared.train):,}")
    print(f"held-out tokens   {len(prepared.heldout):,}")
    print(f"vocabulary        {prepared.vocab_size:,}")
    print(f"unigram entropy   {prepared.unigram_entropy:.3f} nats")
    print(f"sha256            {prepared.sha256}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
