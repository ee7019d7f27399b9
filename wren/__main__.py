"""`python -m wren` = `wren`."""

import sys

from wren.cli import main

if __name__ == "__main__":
    sys.exit(main())
