"""`python -m bitnet.prepare`: tokenise a corpus once, before a fan-out."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bitnet.cli.compose import compose_config, register_plugins
from bitnet.cli.hydra_errors import complain
from bitnet.cli.overrides import refuse
from bitnet.common.console import command_name
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
        from bitnet.cli import compose
        from bitnet.data.prepared import prepare

        config = compose.run_config(compose_config(arguments.overrides, arguments.config_dir))
        with interrupt_on_signals():
            prepared = prepare(config.data, config.tokenizer)
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
