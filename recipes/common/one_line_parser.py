"""The argument parser of scripts whose mistakes are one clear line."""

import argparse


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line; give `prog`, the script's file name."""

    def error(self, message):
        script = self.prog.removesuffix(".py")
        self.exit(2, f"{script}: {message} (--help lists the options)\n")
