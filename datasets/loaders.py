"""Reads vectors and rows in the formats that vector data comes in.

    loaders.load(path)                    .npy .fvecs .bvecs .ivecs .hdf5 .parquet
    loaders.read_jsonl(path)              one object per line, as an iterator
    python3 loaders.py INPUT OUTPUT.npy   converts to float32 (or --dtype float16)

Every matrix comes back two-dimensional, [n, dim]. Sizes that a file states are
checked against the bytes it has before anything is allocated, and a malformed
file gives a ValueError that names the file and what was expected. Nothing is
unpickled. NumPy is required; h5py and pyarrow only for their formats.
"""

import argparse
import contextlib
import importlib
import json
import os
import pathlib
import sys

import numpy as np

DIM_MAX = 65536  # QUASH_DIM_MAX
LINE_BYTES_MAX = 64 << 20

_VECS_TYPES = {".fvecs": np.dtype("<f4"), ".ivecs": np.dtype("<i4"), ".bvecs": np.dtype("u1")}


def load(path, key=None):
    """The matrix in a file, by its extension.

    key: dataset of an HDF5 file (default "train") or column of a Parquet file
    (default: the only list column).
    """
    suffix = pathlib.Path(path).suffix.lower()
    if suffix == ".npy":
        return read_npy(path)
    if suffix in _VECS_TYPES:
        return read_vecs(path)
    if suffix in (".hdf5", ".h5"):
        return read_hdf5(path, key or "train")
    if suffix == ".parquet":
        return read_parquet(path, key)
    raise ValueError(
        f"{path}: unknown extension {suffix!r}, expected .npy, .fvecs, .bvecs, .ivecs, "
        ".hdf5, .h5 or .parquet")


def read_npy(path):
    """[n, dim] of a number type, mapped read-only."""
    try:
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            read_header = {(1, 0): np.lib.format.read_array_header_1_0,
                           (2, 0): np.lib.format.read_array_header_2_0}.get(version)
            if read_header is None:
                raise ValueError(f"version {version}, expected 1.0 or 2.0")
            shape, is_fortran, dtype = read_header(file)
            present = os.fstat(file.fileno()).st_size - file.tell()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if dtype.hasobject or dtype.kind not in "fiu":
        raise ValueError(f"{path}: dtype {dtype}, expected numbers")
    if is_fortran:
        raise ValueError(f"{path}: Fortran order, expected C order")
    _check_shape(path, shape)
    expected = shape[0] * shape[1] * dtype.itemsize  # Python integers do not overflow
    if present < expected:
        raise ValueError(f"{path}: {present} bytes of data, shape {shape} needs {expected}")
    if shape[0] == 0:
        return np.empty(shape, dtype)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def read_vecs(path):
    """.fvecs, .bvecs, .ivecs: per row an int32 dimension, then that many values."""
    value_type = _VECS_TYPES[pathlib.Path(path).suffix.lower()]
    size = os.path.getsize(path)
    if size == 0:
        raise ValueError(f"{path}: empty file")
    if size < 4:
        raise ValueError(f"{path}: {size} bytes, expected at least a dimension")
    dim = int(np.fromfile(path, "<i4", 1)[0])
    if not 1 <= dim <= DIM_MAX:
        raise ValueError(f"{path}: first dimension is {dim}, expected 1 to {DIM_MAX}")
    row_type = np.dtype([("dim", "<i4"), ("values", value_type, (dim,))])
    if size % row_type.itemsize:
        raise ValueError(f"{path}: {size} bytes is no whole number of rows of "
                         f"{row_type.itemsize} bytes (dimension {dim}): truncated?")
    rows = np.memmap(path, row_type, "r")
    wrong = np.flatnonzero(rows["dim"] != dim)
    if wrong.size:
        raise ValueError(f"{path}: row {wrong[0]} has dimension {rows['dim'][wrong[0]]}, "
                         f"the rows before it {dim}")
    return rows["values"]


def read_hdf5(path, key="train"):
    """One dataset of an HDF5 file, as ann-benchmarks lays them out (train, test,
    neighbors, distances). Read hostile files in a process of their own: HDF5
    parses in C."""
    h5py = _need("h5py", path)
    with _reading(path, "HDF5"), h5py.File(path, "r") as file:
        if key not in file or not isinstance(file[key], h5py.Dataset):
            names = sorted(map(str, file))
            raise ValueError(f"{path}: no dataset {key!r}, expected one of {names}")
        dataset = file[key]
        if dataset.dtype.kind not in "fiu":
            raise ValueError(f"{path}: {key} has dtype {dataset.dtype}, expected numbers")
        _check_shape(f"{path}: {key}", dataset.shape or ())
        # Chunks that were never written take no space, however large the shape;
        # gzip makes data smaller by 1032 at most.
        stored = dataset.id.get_storage_size()
        if dataset.size * dataset.dtype.itemsize > 1032 * stored:
            raise ValueError(
                f"{path}: {key} states shape {dataset.shape} and stores {stored} bytes")
        return dataset[()]


def read_parquet(path, column=None):
    """A column of equally long number lists of a Parquet file, as float32."""
    pa = _need("pyarrow", path)
    pq = _need("pyarrow.parquet", path)
    with _reading(path, "Parquet"), pq.ParquetFile(path) as file:
        return _read_list_column(pa, path, file, column)


def _read_list_column(pa, path, file, column):
    schema = file.schema_arrow
    if column is None:
        lists = [field.name for field in schema if _is_number_list(pa, field.type)]
        if len(lists) != 1:
            raise ValueError(f"{path}: number list columns are {lists}, name one as key")
        column = lists[0]
    elif column not in schema.names or not _is_number_list(pa, schema.field(column).type):
        raise ValueError(f"{path}: no number list column {column!r}, columns are {schema.names}")
    dim, parts = None, []
    for batch in file.iter_batches(batch_size=16384, columns=[column]):
        array = batch.column(0)
        if array.null_count:
            raise ValueError(f"{path}: {column} has null rows")
        lengths = np.asarray(array.value_lengths())
        if dim is None and lengths.size:
            dim = int(lengths[0])
            _check_shape(f"{path}: {column}", (len(lengths), dim))
        if (lengths != dim).any():
            raise ValueError(f"{path}: {column} has lists of {set(lengths.tolist())} values, "
                             f"expected {dim} in every row")
        values = array.flatten()
        if values.null_count:
            raise ValueError(f"{path}: {column} has null coordinates")
        parts.append(values.to_numpy(zero_copy_only=False).astype("<f4").reshape(-1, dim))
    if dim is None:
        raise ValueError(f"{path}: no rows")
    return np.concatenate(parts)


def read_jsonl(path):
    """Yields one object per line of a .jsonl file, or of one compressed as .xz."""
    if str(path).endswith(".xz"):
        import lzma  # pylint: disable=import-outside-toplevel
        file = lzma.open(path, "rb")
    else:
        file = open(path, "rb")
    with file:
        number = 0
        while line := file.readline(LINE_BYTES_MAX + 1):
            number += 1
            if len(line) > LINE_BYTES_MAX:
                raise ValueError(f"{path}: line {number} is longer than {LINE_BYTES_MAX} bytes")
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}: line {number}: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}: line {number} is no JSON object")
            yield row


def write_npy(path, matrix):
    """Writes [n, dim] in C order, format 1.0."""
    with open(path, "wb") as file:
        np.lib.format.write_array(file, np.ascontiguousarray(matrix), version=(1, 0),
                                  allow_pickle=False)


def write_vecs(path, matrix):
    """Writes .fvecs, .bvecs or .ivecs, by the extension."""
    value_type = _VECS_TYPES[pathlib.Path(path).suffix.lower()]
    n, dim = matrix.shape
    rows = np.empty(n, np.dtype([("dim", "<i4"), ("values", value_type, (dim,))]))
    rows["dim"] = dim
    rows["values"] = matrix
    rows.tofile(path)


def _need(module, path):
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".", maxsplit=1)[0]
        raise ImportError(f"{path}: reading it needs {package} (pip install {package})") from error


@contextlib.contextmanager
def _reading(path, kind):
    """Errors of a parser become a ValueError that names the file."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise type(error)(f"{path}: {os.strerror(error.errno)}") from None
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        if str(error).startswith(f"{path}: "):
            raise
        raise ValueError(f"{path}: not {kind}, or damaged: {error}") from error


def _check_shape(what, shape):
    if len(shape) != 2:
        raise ValueError(f"{what}: shape {tuple(shape)}, expected two dimensions")
    if not 1 <= shape[1] <= DIM_MAX:
        raise ValueError(f"{what}: dimension {shape[1]}, expected 1 to {DIM_MAX}")


def _is_number_list(pa, arrow_type):
    is_list = (pa.types.is_list(arrow_type) or pa.types.is_large_list(arrow_type) or
               pa.types.is_fixed_size_list(arrow_type))
    return is_list and (pa.types.is_floating(arrow_type.value_type) or
                        pa.types.is_integer(arrow_type.value_type))


def main():
    parser = argparse.ArgumentParser(description="Converts vectors to .npy.")
    parser.add_argument("input")
    parser.add_argument("output")
    parser.add_argument("--key", help="HDF5 dataset or Parquet column")
    parser.add_argument("--dtype", choices=["float32", "float16"], default="float32")
    arguments = parser.parse_args()
    try:
        matrix = load(arguments.input, arguments.key)
        write_npy(arguments.output, matrix.astype(np.dtype(arguments.dtype).newbyteorder("<")))
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f"Error: {error}")
    print(f"{arguments.output}: {matrix.shape[0]} x {matrix.shape[1]} {arguments.dtype}")


if __name__ == "__main__":
    main()
