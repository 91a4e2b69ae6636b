"""Run an adaptation that kills itself (SIGKILL) once a given file has been written: what a power cut does.

Usage: killed_adapt.py WORKSPACE OVERRIDES_JSON [PATH_ENDING]
"""

import json
import os
import signal
import sys

from monai_vessel_uda import files, pipeline


def main() -> None:
    workspace, overrides = sys.argv[1], json.loads(sys.argv[2])
    if len(sys.argv) > 3:
        ending, replace = sys.argv[3], os.replace

        def replace_and_die(source, destination):
            replace(source, destination)
            if str(destination).endswith(ending):
                os.kill(os.getpid(), signal.SIGKILL)

        files.os.replace = replace_and_die
    pipeline.adapt(workspace, "demo", overrides, baselines=False, device="cpu")


if __name__ == "__main__":
    main()
