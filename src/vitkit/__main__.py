"""`python -m vitkit` is the command; so `torchrun ... -m vitkit train ...` runs it in several processes."""

import sys

from vitkit.cli import main

if __name__ == "__main__":
    sys.exit(main())
