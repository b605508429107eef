"""The command: one small file per verb, which parses, calls one verb of `api/`, and prints.

Results go to stdout, progress and errors to stderr. Exit codes: 0 done, 1 some inputs failed (each named), 2 the call
was wrong, 130 interrupted.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence

import typer

from vitkit import __version__
from vitkit.cli.classify import classify
from vitkit.cli.convert import convert
from vitkit.cli.embed import embed
from vitkit.cli.evaluate import evaluate
from vitkit.cli.models import models
from vitkit.cli.verify import verify
from vitkit.errors import VitkitError

__all__ = ["main"]

COMMANDS: Mapping[str, Callable[..., int]] = {
    "classify": classify,
    "embed": embed,
    "evaluate": evaluate,
    "models": models,
    "convert": convert,
    "verify": verify,
}

INTERRUPTED = 130


def build_app() -> typer.Typer:
    """The typer application with every command."""
    app = typer.Typer(
        name="vitkit",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )
    for name, function in COMMANDS.items():
        app.command(name)(function)

    @app.callback()
    def options(
        version: bool = typer.Option(False, "--version", help="Print the version and exit.", is_eager=True),
        debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
        verbose: bool = typer.Option(False, "--verbose", "-v", help="Say what is skipped or assumed on the way."),
    ) -> None:
        """Vision Transformers that answer exactly: classify, embed, evaluate and convert pictures and checkpoints."""
        if version:
            typer.echo(f"vitkit {__version__}")
            raise typer.Exit
        logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
        logging.getLogger("vitkit").setLevel(logging.INFO if verbose else logging.WARNING)

    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code: every fault of the caller's is one line on stderr."""
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    debug = "--debug" in given
    try:
        code = build_app()(given, standalone_mode=False, prog_name="vitkit")
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except (VitkitError, typer.TyperException) as error:
        if debug:
            raise
        return _complain(error)
    except (KeyboardInterrupt, typer.Abort):
        print("vitkit: interrupted", file=sys.stderr)  # noqa: T201
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output left (`vitkit ... | head`): no fault, and nothing more to say to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _complain(error: VitkitError | typer.TyperException) -> int:
    text = error.format_message() if isinstance(error, typer.TyperException) else str(error)
    print(f"vitkit: {' '.join(text.split())}", file=sys.stderr)  # noqa: T201
    return 2
