"""``python -m e2r``: the command line."""

from __future__ import annotations

import sys

from e2r.cli import main

if __name__ == "__main__":
    sys.exit(main())
