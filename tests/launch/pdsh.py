"""In place of pdsh: `FOLDER -S -f N -w HOSTS COMMAND...` keeps its arguments in FOLDER/seen, and calls ssh for each host."""

import re
import subprocess
import sys
from pathlib import Path

folder, *arguments = sys.argv[1:]
with (Path(folder) / "seen").open("a") as seen:
    seen.write("\n".join(arguments) + "\n")
hosts = arguments[arguments.index("-w") + 1].split(",")
command = " ".join(arguments[arguments.index("-w") + 2 :])
running = []
for number, host in enumerate(hosts):
    meant = {"%n": str(number), "%%": "%"}
    line = re.sub("%[n%]", lambda match, meant=meant: meant[match[0]], command)
    running.append(subprocess.Popen(["ssh", host, line]))
sys.exit(max(process.wait() for process in running))
