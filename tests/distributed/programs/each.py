"""Becomes the command of its arguments, the last of which is a folder: each rank's writes a picture of its own there."""

import os
import sys

command, folder = sys.argv[1:-1], sys.argv[-1]
os.execv(command[0], [*command, os.path.join(folder, f"rank{os.environ['PMI_RANK']}.png")])
