"""`python -m pictofs.sandbox`."""

from __future__ import annotations

from pictofs.sandbox.cli import main

raise SystemExit(main())
