"""``python -m e2r``: the command line."""

from __future__ import annotations

import sys

from e2r.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
