"""The flags of scripts that take a config or a trained run: absl and ml_collections."""

from __future__ import annotations

import functools
import sys

import tensorflow as tf
from absl import flags
from ml_collections import config_flags

from mrl_keras.distribution import Interrupted
from mrl_keras.files import as_path


def define_config(values):
    """Defines --config, and --config.NAME for each of its values.

    Args:
        values: `absl.flags.FlagValues`.
    """
    config_flags.DEFINE_config_file(
        "config", None, "path of a config, with :tiny for its tiny mode", flag_values=values
    )
    flags.mark_flag_as_required("config", flag_values=values)


def define_workdir(values):
    """Defines --workdir, the folder of a run."""
    define_folder(values, "workdir", "folder of the run, local or a URL such as gs://BUCKET/run")


def define_folder(values, name, what):
    """Defines a required flag that names a folder, local or remote.

    Args:
        values: `absl.flags.FlagValues`.
        name: str, of the flag.
        what: str, its help.
    """
    flags.DEFINE_string(name, None, what, flag_values=values, required=True)
    flags.register_validator(name, functools.partial(_is_path, name), flag_values=values)


def _is_path(name, path):
    try:
        as_path(path or "", f"--{name}")
    except ValueError as error:
        raise flags.ValidationError(str(error)) from error
    return True


def run_main(main, define_flags):
    """Parses the command line and calls `main`, with one clear line for what its user can repair.

    Args:
        main: function of the parsed flags.
        define_flags: function that defines the script's flags in `absl.flags.FlagValues`.

    Raises:
        SystemExit: a wrong flag, or a ValueError, ImportError or OSError of `main`; with the code
            75, start again, where another worker or the network was lost.
    """
    values = flags.FlagValues()
    define_flags(values)
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(f"{sys.modules[main.__module__].__doc__}\nflags:\n{values.get_help()}")
        return
    options = _parse(values)
    try:
        main(options)
    except (ValueError, ImportError, OSError) as error:
        raise SystemExit(f"\nerror: {error}") from error  # after a progress bar's open line
    except tf.errors.PermissionDeniedError as error:  # of TensorBoard's files, say
        raise SystemExit(
            f"\nerror: permission denied ({_first_line(error)}). Log in as an account that may "
            "read and write there, or name another folder."
        ) from error
    except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
        print(
            "\nerror: another worker was lost, or a remote folder can't be reached "
            f"({_first_line(error)}). Start all workers again with the same --workdir: they go "
            "on from the newest checkpoint.",
            file=sys.stderr,
            flush=True,
        )
        raise SystemExit(Interrupted.START_AGAIN) from error


def _first_line(error):
    return error.message.splitlines()[0][:200]


def _parse(values):
    try:
        _, *unknown = values(sys.argv)
        if "config" in values:
            values.config.keys()  # raises what went wrong when the file was read
    except (AttributeError, KeyError) as error:  # of ml_collections, for a name it lacks
        name = str(error).strip("\"'").splitlines()[0]
        raise SystemExit(
            f"error: {name!r} is no name in this config. Its file in recipes/configs/, and the "
            "*_defaults.py there, have them all."
        ) from error
    except (flags.Error, ValueError, TypeError, OSError) as error:
        text = " ".join(str(error).split())
        raise SystemExit(f"error: {text} (--help lists the flags)") from error
    if unknown:
        raise SystemExit(f"error: unknown arguments: {unknown} (--help lists the flags)")
    return values
