"""`python -m glassbridge`: the command without its script."""

from __future__ import annotations

import sys

from glassbridge.cli import main

sys.exit(main())
