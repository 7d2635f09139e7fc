"""The arguments of scripts that take no config: argparse with one-line errors."""

from __future__ import annotations

import argparse
import pathlib
import shlex
import sys

from mrl_keras.files import local_path

_FOLDERS = {"cache", "out", "output"}
"""Options whose files are local, since they are about this machine, mapped or linked; no URLs."""

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


class ScriptParser(argparse.ArgumentParser):
    """The parser of one script: help with defaults, no abbreviations, errors of one line.

    The parsed options also hold `command`, the command line.

    Args:
        script: the script's `__file__`.
        about: the script's docstring; the help shows its first paragraph.

    Example:

    >>> parser = ScriptParser("recipes/benchmarks/head.py", "Times the heads.")
    >>> parser.add_measuring("head.csv", repeats=41, tiny={"repeats": 3})
    >>> options = parser.parse_args(["--tiny", "--output=other.csv"])
    >>> options.repeats, options.output
    (3, 'other.csv')
    """

    def __init__(self, script, about):
        path = pathlib.Path(script).resolve()
        super().__init__(
            prog=path.name,
            description=about.split("\n\n")[0],
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            allow_abbrev=False,
        )
        inside = path.is_relative_to(REPOSITORY)
        self._script = path.relative_to(REPOSITORY).as_posix() if inside else path.name
        self._tiny = {}

    def error(self, message):
        script = self.prog.removesuffix(".py")
        self.exit(2, f"{script}: {message} (--help lists the options)\n")

    def add_measuring(self, output, repeats=None, tiny=None):
        """Adds what the benchmarks share: --output, --repeats and --tiny.

        Args:
            output: str, the default of --output, a CSV file; or a `pathlib.Path`, a folder.
            repeats: int, the default of --repeats. Default None: there is no such option.
            tiny: {option: value} that --tiny sets. Default None: there is no such option.
        """
        what = "folder to write" if isinstance(output, pathlib.Path) else "CSV file to write"
        self.add_argument("--output", type=type(output), default=output, help=what)
        if repeats is not None:
            self.add_argument(
                "--repeats", type=int, default=repeats, help="timed calls of each system, in turns"
            )
        if tiny is not None:
            self.add_argument("--tiny", action="store_true", help="small sizes, to try the script")
            self._tiny = tiny

    def parse_args(self, args=None, namespace=None):
        given = [str(one) for one in (sys.argv[1:] if args is None else args)]
        options = super().parse_args(given, namespace)
        if self._tiny and options.tiny:
            vars(options).update(self._tiny)
        for name in _FOLDERS & vars(options).keys():
            try:
                local_path(getattr(options, name), f"--{name}")
            except ValueError as error:
                self.error(str(error))
        options.command = shlex.join(["python", self._script, *given])
        return options


def without_folders(command):
    """A recorded command without --cache and --output, which name folders of one machine."""
    folders = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    folders.add_argument("--cache"), folders.add_argument("--output")
    return shlex.join(folders.parse_known_args(shlex.split(command))[1])
