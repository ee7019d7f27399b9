"""FineWeb-Edu, or any dataset on the hub, as token shards: `python download_data.py`; `--help` names the flags."""

import sys

from wren.data.download import main

if __name__ == "__main__":
    sys.exit(main())
