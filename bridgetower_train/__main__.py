import sys

from bridgetower_train.cli import entry

sys.exit(entry())
