"""`python -m pictofs`: the command line."""

from __future__ import annotations

import sys

from pictofs.cli import main

if __name__ == "__main__":
    sys.exit(main())
