"""`python -m wren` = `wren`. Ctrl-C is a sentence from here on, also while the rest of the program is still read."""

import sys


def main() -> int:
    try:
        from wren.cli import main as run
        from wren.exits import is_rank, leave_after

        return leave_after(run) if is_rank() else run()
    except KeyboardInterrupt:
        print("wren: Interrupted before anything was begun.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
