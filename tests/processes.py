"""What the tests share that start processes of their own."""

import os
from pathlib import Path

_ROOT = Path(__file__).parent.parent


def python_path() -> str:
    """PYTHONPATH of a child: this repository, then what is in it already, such as the mask of --old-machine."""
    return os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
