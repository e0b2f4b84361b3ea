"""Makes the models of the zoo: make.py DIRECTORY [NAME …].

A model that an exporter refuses is reported with the exporter's reason in `failed.json`, and counts as none.
"""
import json
import pathlib
import re
import sys
import traceback

import common
import language  # noqa: F401
import science  # noqa: F401
import vision  # noqa: F401


def main(directory, names):
    failed = {}
    for name, entry in common.ENTRIES.items():
        if names and name not in names:
            continue
        try:
            common.write(entry, directory / name)
            print(name, flush=True)
        except Exception as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            # Without the colours that exporters write.
            failed[name] = re.sub("\x1b\\[[0-9;]*m", "", f"{type(error).__name__}: {lines[0]}")[:300]
            print(f"{name}: {failed[name]}", flush=True)
            with (directory / "failed.log").open("a") as log:
                log.write(f"{name}\n{traceback.format_exc()}\n")
    (directory / "failed.json").write_text(json.dumps(failed, indent=1))


main(pathlib.Path(sys.argv[1]), sys.argv[2:])
