"""`python -m palaver` is the `palaver` command."""

import sys

from palaver.cli import main

sys.exit(main())
