"""Starts a program on each rank: ``child.py FOLDER`` writes how many ranks each of these finds."""

import subprocess
import sys
from pathlib import Path

from gpunet.distributed import world

ranks = world()
code = "from gpunet.distributed import world; import sys; sys.stderr.write(str(world().size))"
done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
(Path(sys.argv[1]) / str(ranks.rank)).write_text(done.stderr)
