"""python -m quashdb.kv: generation with and without a packed cache."""

import sys

from quashdb.kv.demo import main

sys.exit(main())
