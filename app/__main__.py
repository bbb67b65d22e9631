"""`python -m app` is `speech-gateway serve`; with a command's name it is that command."""

from __future__ import annotations

import sys

from app.cli import main

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.argv.insert(1, "serve")
    main()
