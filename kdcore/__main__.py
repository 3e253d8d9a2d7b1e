"""``python -m kdcore``."""

from __future__ import annotations

import sys


def main() -> int:
    """The command line; returns the exit code."""
    from kdcore.cli import run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
