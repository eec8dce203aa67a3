"""``python -m sppfast``: the same as the command ``sppfast``."""

import sys

from sppfast.cli import main

sys.exit(main())
