"""`python -m puna` is the command `puna`."""

import sys

from puna.cli import main

sys.exit(main())
