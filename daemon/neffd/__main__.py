"""`python -m neffd`."""

import sys

from neffd.main import main

sys.exit(main())
