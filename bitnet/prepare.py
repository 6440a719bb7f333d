"""`python -m bitnet.prepare`: tokenise a corpus once, before a fan-out."""

from __future__ import annotations

from bitnet.common.starting import INTERRUPTED, begin

begin(__name__)

import argparse
import sys
from pathlib import Path

from bitnet.cli.compose import compose_config, register_plugins, run_config
from bitnet.cli.hydra_errors import complain
from bitnet.cli.overrides import refuse
from bitnet.common.console import command_name, print_text, say
from bitnet.common.errors import UserError
from bitnet.common.stopping import interrupt_on_signals

_EPILOG = """examples:
  {prepare}                                              the default corpus (pydocs) and its tokenizer
  {prepare} data=wikitext103                             WikiText-103 with the default tokenizer
  {prepare} data=wikitext2 tokenizer=gpt2                the study's corpus and tokenizer
  {prepare} data=text 'data.paths=[my/folder]' tokenizer.vocab_size=4096

Give the same data=, tokenizer= and recipe= overrides as the training command: the prepared data depends on them.
A corpus that is already prepared is only verified."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=command_name("prepare"),
        description="Read, tokenise and store a corpus as memory-mapped token files with a manifest.",
        epilog=_EPILOG.format(prepare=command_name("prepare")),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="overrides, as for bitnet.train")
    parser.add_argument("--config-dir", "-cd", type=Path, help="a folder with your own groups, as for bitnet.train")
    parser.error = refuse
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    register_plugins()
    try:
        arguments = _parser().parse_intermixed_args(argv)
        with interrupt_on_signals():
            from bitnet.data.prepared import prepare

            config = run_config(compose_config(arguments.overrides, arguments.config_dir))
            prepared = prepare(config.data, config.tokenizer, say=print_text)
    except UserError as error:
        return complain(error, sweeps=False)
    except KeyboardInterrupt:
        say("interrupted; the same command starts over")
        return INTERRUPTED
    print_text(f"folder            {prepared.folder}")
    print_text(f"training tokens   {len(prepared.train):,}")
    print_text(f"held-out tokens   {len(prepared.heldout):,}")
    print_text(f"vocabulary        {prepared.vocab_size:,}")
    print_text(f"unigram entropy   {prepared.unigram_entropy:.3f} nats")
    print_text(f"sha256            {prepared.sha256}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
