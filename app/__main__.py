"""`python -m app` is `speech-gateway serve`."""

from __future__ import annotations

import sys

from app.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["serve"]
    main()
