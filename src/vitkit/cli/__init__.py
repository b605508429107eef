"""The command: one small file per verb, which parses, calls one verb of `api/`, and prints.

Results go to stdout, progress and errors to stderr. Exit codes: 0 done, 1 some inputs failed (each named), 2 the call
was wrong, 130 interrupted (143 by SIGTERM).
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence

import typer

from vitkit import __version__
from vitkit.cli.bench import bench
from vitkit.cli.check import check
from vitkit.cli.classify import classify
from vitkit.cli.compare import compare
from vitkit.cli.convert import convert
from vitkit.cli.demo import demo
from vitkit.cli.diff import diff
from vitkit.cli.embed import embed
from vitkit.cli.evaluate import evaluate
from vitkit.cli.explain import explain
from vitkit.cli.export import export
from vitkit.cli.learning_curve import learning_curve
from vitkit.cli.models import models
from vitkit.cli.options import spread
from vitkit.cli.output import complain, is_first_process
from vitkit.cli.reconstruct import reconstruct
from vitkit.cli.train import train
from vitkit.cli.verify import verify
from vitkit.errors import Interrupted, VitkitError

__all__ = ["main"]

COMMANDS: Mapping[str, Callable[..., int]] = {
    "classify": classify,
    "embed": embed,
    "explain": explain,
    "reconstruct": reconstruct,
    "check": check,
    "train": train,
    "evaluate": evaluate,
    "compare": compare,
    "learning-curve": learning_curve,
    "models": models,
    "convert": convert,
    "export": export,
    "verify": verify,
    "diff": diff,
    "bench": bench,
    "demo": demo,
}

WRONG_CALL, INTERRUPTED, TERMINATED = 2, 130, 143


class Terminated(KeyboardInterrupt):
    """SIGTERM: what began is cleared away as on Ctrl-C."""


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
        app.command(name)(spread(function))

    @app.callback()
    def options(
        version: bool = typer.Option(
            False, "--version", help="Print the version and exit.", is_eager=True, callback=_print_version
        ),
        debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
        verbose: bool = typer.Option(False, "--verbose", "-v", help="Say what is skipped or assumed on the way."),
    ) -> None:
        """Vision Transformers that answer exactly: classify, embed, evaluate and convert pictures and checkpoints."""
        logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
        level = logging.INFO if verbose else logging.WARNING
        logging.getLogger("vitkit").setLevel(level if is_first_process() else logging.CRITICAL)

    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code: every fault of the caller's is one line on stderr."""
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]  # so that it may stand after the verb too
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Results are the same bytes on every system; a file name that isn't UTF-8 comes out as the bytes it is.
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    command = typer.main.get_command(build_app())
    try:
        # Not `command(given)`, which takes interrupts and closed pipes for itself.
        with _terminable(), command.make_context("vitkit", given) as context:
            code = command.invoke(context)
        sys.stdout.flush()
        return int(code)
    except typer.Exit as end:  # --help and --version
        return end.exit_code
    except Terminated as stopped:
        complain(_told("terminated", stopped))
        return TERMINATED
    except (KeyboardInterrupt, typer.Abort) as stopped:
        complain(_told("interrupted", stopped))
        return INTERRUPTED
    except Interrupted as stopped:
        complain(str(stopped))
        return 128 + stopped.signum
    except BrokenPipeError:
        # The reader of our output left (`vitkit ... | head`): no fault, and nothing more to say to it.
        _forget_output()
        return 0
    except (VitkitError, OSError, typer.TyperException) as error:
        if debug:
            traceback.print_exc()
        complain(_told(error.format_message() if isinstance(error, typer.TyperException) else str(error), error))
        try:
            sys.stdout.flush()
        except OSError:
            _forget_output()
        return WRONG_CALL


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM raises Terminated, where it would end the process at once and leave halves of files behind."""

    def stop(signum: int, frame: object) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _told(text: str, error: BaseException) -> str:
    """What an error says, and what was noted on its way."""
    return "; ".join([text, *getattr(error, "__notes__", ())])


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"vitkit {__version__}")
        raise typer.Exit


def _forget_output() -> None:
    """Drops what stdout still holds and can't get rid of: Python would try once more at its end, and complain."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
