"""What ranks need of the system."""

import resource
import subprocess
import sys

SCRIPT = """
import resource
from bridgetower_train.distributed import allow_connections
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
allow_connections()
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


def test_as_many_connections_as_the_system_allows():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=True)
    assert int(done.stdout) == resource.getrlimit(resource.RLIMIT_NOFILE)[1]
