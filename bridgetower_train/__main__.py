import sys

from bridgetower_train.cli import main

sys.exit(main())
