"""``python -m kdcore``."""

from __future__ import annotations

import os
import sys


def main() -> int:
    """The command line; returns the exit code."""
    from kdcore.cli import run

    try:
        code = run(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # `kdcore plugins | head`: who read it has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left to flush at exit
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main())
