"""Damaged HDF5 files: datasets/loaders.py reads them, refuses them, or dies alone.

    hdf5_damage.py [--files N] [--seed S]

HDF5 parses in C, so the loader reads foreign files in a child with a limit on
memory and time; the parent goes on whatever becomes of the child. File i follows
from seed + i; --seed S --files 1 repeats one. Exits with 77, a skip, without h5py.
"""

import argparse
import os
import pathlib
import random
import resource
import signal
import sys
import tempfile

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "datasets"))
import loaders  # noqa: E402

MEMORY, SECONDS = 2 << 30, 20
READ, REFUSED, WRONG = 0, 3, 4


def originals(h5py, folder):
    """Files of each layout: contiguous, compressed chunks, text beside numbers."""
    random_rows = np.random.default_rng(1).standard_normal((200, 16)).astype("f4")
    files = []
    for name, options in (("contiguous", {}), ("gzip", {"compression": "gzip"}),
                          ("chunks", {"chunks": (16, 16), "shuffle": True, "fletcher32": True})):
        path = folder / f"{name}.hdf5"
        with h5py.File(path, "w") as file:
            file.attrs["distance"] = "angular"
            file.create_dataset("train", data=random_rows, **options)
            file.create_dataset("test", data=random_rows[:10])
            file.create_dataset("neighbors", data=np.arange(100).reshape(10, 10))
        files.append(path.read_bytes())
    return files


def damaged(files, chosen):
    data = bytearray(chosen.choice(files))
    for _ in range(chosen.randint(1, 6)):
        # Mostly where the headers are.
        at = chosen.randrange(min(len(data), chosen.choice((100, 1000, 4000, len(data)))))
        match chosen.randrange(5):
            case 0:
                data[at] ^= 1 << chosen.randrange(8)
            case 1:
                data[at] = chosen.randrange(256)
            case 2:
                data[at:at + 8] = chosen.choice((0, 1, 2**31, 2**32, 2**63, 2**64 - 1)).to_bytes(
                    8, "little")
            case 3:
                del data[max(at, 1):]
            case 4:
                length = chosen.randint(1, 64)
                source = chosen.randrange(len(data))
                data[at:at + length] = data[source:source + length]
    return bytes(data)


def read(path):
    """What a child made of the file: an exit code, or minus its signal."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status)
    outcome = WRONG
    try:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.alarm(SECONDS)
        try:
            rows = loaders.load(path)
            outcome = READ if rows.ndim == 2 and rows.shape[1] <= loaders.DIM_MAX else WRONG
        except ValueError as error:
            outcome = REFUSED if str(path) in str(error) else WRONG
        except MemoryError:
            outcome = REFUSED
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        os._exit(outcome)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    try:
        import h5py
    except ImportError as error:
        print(f"skipped: {error}")
        return 77
    counts, wrong = {"read": 0, "refused": 0, "died": 0}, []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        files = originals(h5py, folder)
        path = folder / "damaged.hdf5"
        for data in files:
            path.write_bytes(data)
            if read(path) != READ:
                sys.exit("an undamaged file is not read")
        for seed in range(options.seed, options.seed + options.files):
            path.write_bytes(damaged(files, random.Random(seed)))
            outcome = read(path)
            if outcome < 0:
                counts["died"] += 1
                print(f"seed {seed}: the child died of {signal.Signals(-outcome).name}")
            elif outcome in (READ, REFUSED):
                counts["read" if outcome == READ else "refused"] += 1
            else:
                wrong.append(seed)
                print(f"seed {seed}: neither rows nor a ValueError that names the file")
    print(f"{options.files} files: {counts}, {len(wrong)} wrong; HDF5 {h5py.version.hdf5_version}")
    return 1 if wrong or counts["refused"] == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
