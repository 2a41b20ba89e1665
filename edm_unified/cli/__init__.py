"""The command line, and the only place that prints, reads arguments or exits. One thin file per command.

A command is imported when it is run, and it imports torch when it works, so that ``--help`` and the Tab key answer at
once. What goes wrong below becomes one line on stderr here, and here alone:

    exit code 1     a fault of this package: the line asks for a report and names a file with the traceback
    exit code 2     wrong input, an unreadable file, a full disk, a denoiser that returned NaN
    exit code 130   Ctrl-C
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import click

from edm_unified import __version__
from edm_unified.cli.own import with_plugins
from edm_unified.cli.terminal import printable_streams
from edm_unified.components import own_code
from edm_unified.components.shipped import suggest

COMMANDS = {
    "compare": ("compare.compare", "Compare methods at equal budgets; write tables, figures, a report."),
    "certify": ("certify.certify", "Measure orders, noise, NFE and identities of solvers."),
    "init": ("init.init", "Write a training recipe for data, ready to run."),
    "train": ("train.train", "Train a network as a recipe says; continues what was interrupted."),
    "data": ("data.data", "Describe data; suggest σ_min, σ_max, P_mean, P_std for them."),
    "ema": ("ema.ema", "Put averages of any length together, after the training."),
    "sample": ("sample.sample", "Draw samples with one method; write a picture and an array."),
    "tune": ("tune.tune", "Fit a solver to a model, for a few evaluations."),
    "likelihood": ("likelihood.likelihood", "The likelihood of data: nats and bits/dim, by the ODE or a bound."),
    "show": ("show.show", "Print the design card of a method: formulas, levels, NFE."),
    "inspect": ("inspecting.inspect", "Say what a checkpoint is, and check its convention."),
    "convert": ("convert.convert", "Write a checkpoint of another library as a network of ours."),
    "list": ("listing.list_components", "Name every schedule, solver, ... and the recipes."),
    "schema": ("schema.schema", "Print the JSON Schema of recipes, for editors."),
}
"""Every command: where it is (module and function in this package), and its short help."""


class OneLineError(click.ClickException):
    """An error that the command line prints as one line, with exit code 2."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(line.strip() for line in message.splitlines() if line.strip()))

    def show(self, file: Any = None) -> None:
        click.echo(f"Error: {self.message}", file=file or sys.stderr)


class UnforeseenError(OneLineError):
    """An error that is a fault of this package: one line and exit code 1; the traceback is in a file."""

    exit_code = 1


class Commands(click.Group):
    """The group: imports commands when they are run, and turns errors into one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, function = COMMANDS[cmd_name][0].partition(".")
        command: click.Command = getattr(import_module(f"edm_unified.cli.{module}"), function)
        return with_plugins(command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            raise click.UsageError(f"no command {args[0]!r}{suggest(args[0], COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def main(self, *args: Any, **kwargs: Any) -> Any:
        whole_streams()
        with printable_streams():
            return super().main(*args, **kwargs)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with one_line():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with one_line():
            return super().invoke(ctx)


@contextmanager
def one_line() -> Iterator[None]:
    """Turn every error into one line: of the user, of the machine, and our own, whose traceback goes to a file."""
    try:
        yield
    except (click.exceptions.NoArgsIsHelpError, click.exceptions.Exit, click.Abort, OneLineError):
        raise
    except click.NoSuchOption as error:
        near = suggest(error.option_name, error.possibilities) if error.possibilities else ""
        raise OneLineError(f"no such option {error.option_name!r}{near}{_usage(error)}") from None
    except click.UsageError as error:
        message = error.format_message().rstrip(".")
        raise OneLineError(f"{message[:1].lower()}{message[1:]}{_usage(error)}") from None
    except BrokenPipeError:  # `| head`: click ends quietly
        raise
    except KeyboardInterrupt:
        click.echo("Interrupted.", err=True)
        raise click.exceptions.Exit(130) from None
    except OSError as error:
        name = f"{error.filename}: " if error.filename is not None else ""
        raise OneLineError(f"{name}{error.strerror or error}") from None
    except (ValueError, FloatingPointError) as error:
        raise OneLineError(str(error)) from None
    except MemoryError:
        raise OneLineError("not enough memory; lower --batch") from None
    except Exception as error:
        if _out_of_memory(error):
            raise OneLineError("not enough memory on the device; lower --batch") from None
        if (fault := own_code.blamed(error)) is not None:
            raise OneLineError(fault) from None
        raise UnforeseenError(_unforeseen(error)) from None


def _unforeseen(error: Exception) -> str:
    """The message for an error of our own; its traceback is written to a file first."""
    from edm_unified.cli.crash_report import report

    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"in {last.name}, line {last.lineno} of {os.path.basename(last.filename)}"
    words = " ".join(str(error).split())[:200]
    file = report(error)
    kept = f"with {file}, which has the traceback" if file is not None else f"{where}; no folder took the traceback"
    what = f"{type(error).__name__}{': ' + words if words else ''}"
    return f"{what}; this is a fault of edm_unified, please report it {kept}"


def _usage(error: click.UsageError) -> str:
    return f"; see {error.ctx.command_path} --help" if error.ctx is not None else ""


def _out_of_memory(error: Exception) -> bool:
    """Torch has a class for this on GPUs and a sentence for it on CPUs. Torch itself need not be imported here."""
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)


def whole_streams() -> None:
    """Make standard output and error accept all text, also where one is closed or its encoding lacks letters.

    A closed one (``2>&-``) goes to the null device, also because the next file opened would get its number, and with it
    what a library prints. Into a file or pipe everything is UTF-8, as recipes are read; a terminal shows ``?`` for what
    it has no letter for. PYTHONIOENCODING is obeyed.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number: this one
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # until the process ends
        elif isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            known = stream.isatty() or "PYTHONIOENCODING" in os.environ
            wide = stream.encoding.lower().startswith("utf") or not known
            stream.reconfigure(encoding=None if known else "utf-8", errors="backslashreplace" if wide else "replace")


@click.group(
    "edm-unified",
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog='Tab completion: eval "$(_EDM_UNIFIED_COMPLETE=bash_source edm-unified)" (or zsh_source, fish_source).',
)
@click.version_option(__version__, package_name="edm_unified", prog_name="edm-unified")
def main() -> None:
    """Diffusion and flow methods as interchangeable choices around one denoiser: compare, sample, look.

    \b
    edm-unified compare quickstart          every shipped method, ranked at five budgets
    edm-unified show edm                    what a method is made of
    edm-unified sample edm --solver euler   a picture, with another solver
    """
