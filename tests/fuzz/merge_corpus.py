#!/usr/bin/env python3
"""Adds to corpus/NAME the inputs of a run of libFuzzer that come to the most places in the
code to which none before comes.

    merge_corpus.py NAME [--most 32] [--build build-fuzz] [--new build-fuzz/new/NAME]

What is in the corpus stays. Places are what libFuzzer calls features; without counters
these are edges. Which inputs come to one is read from the control file of its merge.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]


def edges(fuzzer, folders, control):
    """The edges that each input comes to."""
    with tempfile.TemporaryDirectory() as out:
        env = {"ASAN_OPTIONS": "malloc_context_size=0:quarantine_size_mb=16", **os.environ}
        subprocess.run([fuzzer, "-merge=1", "-use_counters=0",
                        "-max_len=512", f"-merge_control_file={control}", out,
                        *folders], check=True, env=env, stderr=subprocess.DEVNULL)  # fmt: skip
    lines = control.read_text().splitlines()
    files = [pathlib.Path(line) for line in lines[2:2 + int(lines[0])]]
    found = {file: set() for file in files}
    for line in lines[2 + len(files):]:
        kind, *numbers = line.split()
        if kind == "FT":
            found[files[int(numbers[0])]] = set(map(int, numbers[1:]))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("name")
    parser.add_argument("--most", type=int, default=32, help="inputs to add")
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build-fuzz")
    parser.add_argument("--new", type=pathlib.Path)
    options = parser.parse_args()
    corpus = ROOT / "tests/fuzz/corpus" / options.name
    corpus.mkdir(exist_ok=True)
    new = options.new or options.build / "new" / options.name
    with tempfile.TemporaryDirectory() as folder:
        found = edges(options.build / "tests/fuzz" / f"{options.name}_fuzz", [corpus, new],
                      pathlib.Path(folder) / "control")  # fmt: skip
    reached = set().union(*(edges for file, edges in found.items() if file.parent == corpus))
    rest = {file: edges - reached for file, edges in found.items() if file.parent != corpus}
    added = 0
    while added < options.most:
        # The most edges that are still missing; of equals the shortest input.
        rest = {file: left for file, edges in rest.items() if (left := edges - reached)}
        if not rest:
            break
        best = min(rest, key=lambda file: (-len(rest[file]), file.stat().st_size, file.name))
        shutil.copyfile(best, corpus / best.name[:12])
        reached |= rest[best]
        added += 1
    everything = set().union(*found.values())
    print(f"{options.name}: {added} inputs added, {len(reached)} of {len(everything)} edges")


if __name__ == "__main__":
    main()
