"""Collections as Arrow tables, pandas data frames and Parquet files, by columns.

    import quashdb.arrow

    docs = quashdb.arrow.create(db, "docs", "docs.parquet", vector="embedding")
    quashdb.arrow.add(docs, more_rows)              # a table, a data frame, a file
    table = quashdb.arrow.read(docs, "year >= 2020", include=("metadatas", "vectors"))
    quashdb.arrow.write_parquet(docs, "out.parquet")

A table has a column of ids (int64 or text), one of vectors (lists of numbers, best
fixed-size lists of float32, which are not copied), perhaps one of documents (text),
and metadata: every other column. Needs pyarrow; pandas only for data frames.
"""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
import pyarrow.parquet

from quashdb import _convert, _ffi
from quashdb._ffi import lib
from quashdb._types import Where
from quashdb.collection import Collection
from quashdb.database import Database
from quashdb.errors import FieldTypeError, InvalidError, QuashError, check

_TYPES = {
    "bool": pa.bool_(),
    "int": pa.int64(),
    "float": pa.float64(),
    "string": pa.string(),
    "int[]": pa.list_(pa.int64()),
    "string[]": pa.list_(pa.string()),
}
_BATCH_BYTES = 64 << 20
_READ_ROWS = 16384


# ---- Writing


def create(
    database: Database,
    name: str,
    data: Any,
    *,
    id: str | None = "id",
    vector: str = "vector",
    document: str | None = "document",
    **options: Any,
) -> Collection:
    """Creates a collection for the columns of `data` and adds its rows.

    data, id, vector, document: as for add(). Metadata fields and the kind of ids
        are those of the columns.
    options: of Database.create_collection(); dim is that of the first vector.

    If adding fails the collection is dropped.
    """
    reader = _reader(data, id)
    columns = _Columns(reader.schema, id, vector, document)
    first = next((batch for batch in reader if len(batch)), None)
    if first is None:
        raise InvalidError("data has no rows, so the dimension is unknown")
    dim = _vectors(first.column(columns.vector), vector, None).shape[1]
    if columns.id is not None and _is_text(reader.schema.field(columns.id).type):
        options["id_type"] = "string"
    collection = database.create_collection(name, dim, fields=columns.fields(), **options)
    try:
        _add(collection, columns, [first], upsert=False)
        _add(collection, columns, reader, upsert=False)
    except BaseException:
        database.drop_collection(name)
        raise
    return collection


def add(
    collection: Collection,
    data: Any,
    *,
    id: str | None = "id",
    vector: str = "vector",
    document: str | None = "document",
    upsert: bool = False,
) -> int:
    """Adds rows, or replaces those whose id is stored; returns how many rows were given.

    data: a pyarrow Table, RecordBatch, RecordBatchReader or Dataset, whatever offers
        the Arrow stream interface, a pandas DataFrame, or the path of a Parquet file.
    id, vector, document: names of columns; id may be that of a data frame's index. id
        None, or a name that is not there, for int64 ids assigned upward; a document
        column may be missing.

    Every other column is metadata and must be a field of the collection. Rows are
    written in atomic batches of about 64 MiB; an error's rows_written says how many
    rows are in.
    """
    reader = _reader(data, id)
    return _add(collection, _Columns(reader.schema, id, vector, document), reader, upsert)


def _add(
    collection: Collection,
    columns: _Columns,
    batches: Iterable[pa.RecordBatch],
    upsert: bool,
) -> int:
    written = 0
    for batch in batches:
        step = max(1, len(batch) * _BATCH_BYTES // max(batch.nbytes, 1))
        for begin in range(0, len(batch), step):
            part = batch.slice(begin, step)
            try:
                _write(collection, columns, part, upsert)
            except QuashError as error:
                error.rows_written = written
                raise
            written += len(part)
    return written


def _write(collection: Collection, columns: _Columns, batch: pa.RecordBatch, upsert: bool) -> None:
    vectors = _vectors(batch.column(columns.vector), columns.vector, collection.dim)
    rows = _ffi.Rows(struct_size=ctypes.sizeof(_ffi.Rows), n=len(batch))
    rows.vectors = _convert.address(vectors)
    kept: list[Any] = [vectors]  # what `rows` points to

    def texts(values: Any, what: str) -> Any:
        pointers, arrays = _pointers(values, what)
        kept.extend([pointers, arrays])
        return ctypes.cast(_convert.address(pointers), ctypes.POINTER(ctypes.c_char_p))

    if columns.id is not None:
        ids = batch.column(columns.id)
        if ids.null_count:
            raise InvalidError(f"column {columns.id!r} has {ids.null_count} nulls, expected ids")
        if collection.id_type == "string":
            rows.string_ids = texts(ids, columns.id)
        else:
            given = _cast(ids, pa.int64(), columns.id).to_numpy(zero_copy_only=False)
            kept.append(given)
            rows.int_ids = _convert.address(given)
    elif upsert or collection.id_type == "string":
        raise InvalidError(f"data has no id column, and collection {collection.name!r} needs ids")
    if columns.document is not None:
        rows.documents = texts(batch.column(columns.document), columns.document)
    if columns.metadata:
        rows.metadata = texts(
            _json({name: batch.column(name) for name in columns.metadata}), "metadata"
        )
    if upsert:
        check(collection._call(lib.quash_upsert, ctypes.byref(rows)))
    else:
        check(collection._call(lib.quash_add, ctypes.byref(rows), None))


class _Columns:
    """Which column of a table is what."""

    def __init__(
        self, schema: pa.Schema, id: str | None, vector: str, document: str | None
    ) -> None:
        if vector not in schema.names:
            raise InvalidError(f"data has no column {vector!r}, only {', '.join(schema.names)}")
        self.schema = schema
        self.vector = vector
        self.id = id if id in schema.names else None
        self.document = document if document in schema.names else None
        taken = (self.id, self.vector, self.document)
        self.metadata = [name for name in schema.names if name not in taken]

    def fields(self) -> dict[str, Any]:
        """Metadata fields for Database.create_collection()."""
        return {name: _field_type(self.schema.field(name)) for name in self.metadata}


def _field_type(field: pa.Field) -> str:
    type_, suffix = field.type, ""
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        type_, suffix = type_.value_type, "[]"
    if pa.types.is_integer(type_):
        return "int" + suffix
    if _is_text(type_):
        return "string" + suffix
    if not suffix and pa.types.is_boolean(type_):
        return "bool"
    if not suffix and (pa.types.is_floating(type_) or pa.types.is_null(type_)):
        return "float"
    if not suffix and (pa.types.is_temporal(type_) or pa.types.is_decimal(type_)):
        return "string"
    raise FieldTypeError(
        f"column {field.name!r} has type {field.type}, expected bools, numbers, text, times, or "
        "lists of integers or of text"
    )


def _is_text(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))


def _reader(data: Any, id: str | None = None) -> pa.RecordBatchReader:
    if isinstance(data, (str, os.PathLike)):
        file = pyarrow.parquet.ParquetFile(data)
        return pa.RecordBatchReader.from_batches(file.schema_arrow, file.iter_batches(65536))
    if isinstance(data, pa.RecordBatchReader):
        return data
    if isinstance(data, pa.RecordBatch):
        return pa.RecordBatchReader.from_batches(data.schema, [data])
    if hasattr(data, "scanner"):  # pyarrow.dataset.Dataset
        return data.scanner().to_reader()
    if hasattr(data, "to_reader"):
        return data.to_reader()
    if type(data).__module__.startswith("pandas."):
        keeps_index = id is not None and id in data.index.names
        data = pa.Table.from_pandas(data, preserve_index=keeps_index)
        return data.to_reader()
    if hasattr(data, "__arrow_c_stream__"):
        return pa.RecordBatchReader.from_stream(data)
    raise TypeError(
        f"data is a {type(data).__name__}, expected Arrow data, a DataFrame or a Parquet file"
    )


def _cast(values: Any, type_: pa.DataType, name: str) -> Any:
    try:
        return pc.cast(values, type_)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InvalidError(f"column {name!r} is no {type_}: {error}") from error


def _vectors(column: Any, name: str, dim: int | None) -> npt.NDArray[np.float32]:
    """float32 [n, dim] in C order, a view where the column has that already."""
    type_ = column.type
    if isinstance(type_, pa.BaseExtensionType):  # tensors, as Ray Data has them
        shape = getattr(type_, "shape", None)
        if shape is not None and len(shape) != 1:
            raise InvalidError(f"column {name!r} has tensors of shape {shape}, expected vectors")
        column, type_ = column.storage, type_.storage_type
    is_fixed = pa.types.is_fixed_size_list(type_)
    if not (is_fixed or pa.types.is_list(type_) or pa.types.is_large_list(type_)):
        raise InvalidError(f"column {name!r} has type {type_}, expected lists of numbers")
    if column.null_count:
        raise InvalidError(f"column {name!r} has {column.null_count} nulls, expected vectors")
    if is_fixed:
        width = type_.list_size
    else:
        widths = pc.unique(pc.list_value_length(column)).to_pylist()
        if len(widths) > 1:
            raise InvalidError(f"column {name!r} has vectors of {len(widths)} different lengths")
        width = widths[0] if widths else dim or 0
    if dim is not None and len(column) and width != dim:
        raise InvalidError(f"column {name!r} has vectors of {width} numbers, expected {dim}")
    values = column.flatten()
    if values.null_count:
        raise InvalidError(f"column {name!r} has nulls in its vectors, expected numbers")
    flat = _cast(values, pa.float32(), name).to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(flat, np.float32).reshape(len(column), width)


def _pointers(column: Any, name: str) -> tuple[npt.NDArray[np.uint64], Any]:
    """[n] addresses of NUL-terminated texts, 0 for null, and what holds them."""
    texts = _cast(column, pa.large_string(), name)
    with_nul = pc.any(pc.match_substring(texts, "\0")).as_py()
    if with_nul:
        raise InvalidError(f"column {name!r} has a NUL character in a text")
    ended = _join(texts, "\0")
    _, offsets, data = ended.buffers()
    starts = np.frombuffer(offsets, np.int64)[ended.offset : ended.offset + len(ended)]
    pointers = starts.astype(np.uint64)
    pointers += np.uint64(data.address if data is not None else 0)
    if ended.null_count:
        pointers[ended.is_null().to_numpy(zero_copy_only=False)] = 0
    return pointers, ended


def _join(*parts: Any, separator: str = "", **options: Any) -> Any:
    """Texts joined by element; a part may be one text for all."""
    texts = [pa.scalar(p, pa.large_string()) if isinstance(p, str) else p for p in parts]
    between = pa.scalar(separator, pa.large_string())
    return pc.binary_join_element_wise(*texts, between, **options)


def _json(columns: Mapping[str, Any]) -> Any:
    """One JSON object per row, without the nulls."""
    parts = [
        _join(json.dumps(name) + ":", _json_values(column, name))
        for name, column in columns.items()
    ]
    # The empty text in front: Arrow leaves out the rows in which every text is null.
    joined = _join("", *parts, separator=",", null_handling="skip")
    return _join("{", pc.ascii_ltrim(joined, characters=","), "}")


def _json_values(column: Any, name: str) -> Any:
    """Large strings of JSON, null for null."""
    type_ = column.type
    if pa.types.is_dictionary(type_):
        column = pc.cast(column, type_.value_type)
        type_ = column.type
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        inner = _json_values(column.flatten(), name)
        if inner.null_count:
            raise InvalidError(f"column {name!r} has nulls within lists")
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        lists = pa.LargeListArray.from_arrays(pa.array(offsets), inner)
        joined = _join("[", pc.binary_join(lists, pa.scalar(",", pa.large_string())), "]")
        return pc.if_else(column.is_valid(), joined, None)
    if _is_text(type_) or pa.types.is_temporal(type_) or pa.types.is_decimal(type_):
        return _quoted(column)
    if pa.types.is_floating(type_):  # JSON has no NaN; pandas' null is one
        column = pc.if_else(pc.is_nan(column), None, column)
        if pc.any(pc.is_inf(column)).as_py():
            raise InvalidError(f"column {name!r} has an infinite number")
    elif not (pa.types.is_boolean(type_) or pa.types.is_integer(type_) or pa.types.is_null(type_)):
        raise FieldTypeError(f"column {name!r} has type {type_}, which no metadata field holds")
    return pc.cast(column, pa.large_string())


def _quoted(texts: Any) -> Any:
    texts = pc.cast(texts, pa.large_string())
    for character, escaped in (("\\", "\\\\"), ('"', '\\"')):
        texts = pc.replace_substring(texts, character, escaped)
    if pc.any(pc.match_substring_regex(texts, "[\\x00-\\x1f]")).as_py():
        for code in range(1, 0x20):
            texts = pc.replace_substring(texts, chr(code), f"\\u{code:04x}")
    return _join('"', texts, '"')


# ---- Reading


def schema(collection: Collection, include: str | Iterable[str] | None) -> pa.Schema:
    """Of the tables of read(): "id", then "vector", "document" and metadata fields as
    included. A field that is called like one of these comes as "metadata.NAME"."""
    flags = _convert.include_flags(include)
    columns = [("id", pa.int64() if collection.id_type == "int64" else pa.large_string())]
    if flags & _ffi.INCLUDE_VECTORS:
        columns.append(("vector", pa.list_(pa.float32(), collection.dim)))
    if flags & _ffi.INCLUDE_DOCUMENTS:
        columns.append(("document", pa.large_string()))
    if flags & _ffi.INCLUDE_METADATA:
        for field in collection.describe()["fields"]:
            name = field["name"]
            taken = name in ("id", "vector", "document")
            columns.append((f"metadata.{name}" if taken else name, _TYPES[field["type"]]))
    return pa.schema(columns)


def batches(
    collection: Collection,
    where: Where | None = None,
    *,
    include: str | Iterable[str] | None = ("metadatas", "documents", "vectors"),
    batch_size: int = _READ_ROWS,
) -> pa.RecordBatchReader:
    """Rows that match, in insertion order, of one snapshot taken now."""
    names = [include] if isinstance(include, str) else list(include or ())
    made = schema(collection, names)
    rows = collection.iterate(where, batch_size, names)

    def read_all() -> Iterator[pa.RecordBatch]:
        with rows:
            for found in rows:
                yield _record_batch(found._rows, made, collection)

    return pa.RecordBatchReader.from_batches(made, read_all())


def read(
    collection: Collection,
    where: Where | None = None,
    *,
    include: str | Iterable[str] | None = ("metadatas", "documents", "vectors"),
) -> pa.Table:
    """Rows that match, in insertion order; read(...).to_pandas() is a data frame."""
    return batches(collection, where, include=include).read_all()


def write_parquet(
    collection: Collection,
    path: str | os.PathLike[str],
    where: Where | None = None,
    *,
    include: str | Iterable[str] | None = ("metadatas", "documents", "vectors"),
    **options: Any,
) -> int:
    """Writes rows to a Parquet file, a batch at a time; returns how many.

    options: of pyarrow.parquet.ParquetWriter.
    """
    written = 0
    reader = batches(collection, where, include=include, batch_size=65536)
    with pyarrow.parquet.ParquetWriter(path, reader.schema, **options) as writer:
        for batch in reader:
            writer.write_batch(batch)
            written += len(batch)
    return written


def _record_batch(rows: Any, made: pa.Schema, collection: Collection) -> pa.RecordBatch:
    arrays: dict[str, Any] = {}
    if collection.id_type == "int64":
        arrays["id"] = pa.array(rows.ids)
    else:
        arrays["id"] = _texts(rows, "string_id")
    if "vector" in made.names and rows.include & _ffi.INCLUDE_VECTORS:
        flat = pa.array(rows.vectors.reshape(-1))
        arrays["vector"] = pa.FixedSizeListArray.from_arrays(flat, collection.dim)
    if rows.include & _ffi.INCLUDE_DOCUMENTS:
        arrays["document"] = _texts(rows, "document")
    names = [name for name in made.names if name not in arrays]
    if names:
        plain = [name.removeprefix("metadata.") for name in names]
        fields = pa.schema([made.field(n).with_name(p) for n, p in zip(names, plain, strict=True)])
        data = _text_buffers(rows, "metadata")[0]
        table = pyarrow.json.read_json(
            pa.BufferReader(data),
            read_options=pyarrow.json.ReadOptions(
                use_threads=False, block_size=max(data.size + 1, 1 << 16)
            ),
            parse_options=pyarrow.json.ParseOptions(
                explicit_schema=fields, unexpected_field_behavior="ignore"
            ),
        )
        for name, field in zip(names, plain, strict=True):
            arrays[name] = table.column(field).combine_chunks()
    return pa.RecordBatch.from_arrays([arrays[name] for name in made.names], schema=made)


def _text_buffers(rows: Any, what: str) -> tuple[pa.Buffer, pa.Buffer, npt.NDArray[np.uint8]]:
    """Bytes, offsets and presence: views of the result, which they keep alive."""
    texts = _ffi.Texts()
    check(lib.quash_result_texts(rows.handle.pointer, _ffi.TEXTS[what], ctypes.byref(texts)))
    offsets = pa.foreign_buffer(texts.offsets, (rows.n + 1) * 8, rows.handle)
    size = int(np.frombuffer(offsets, np.int64)[-1])
    data = pa.foreign_buffer(texts.bytes, size, rows.handle)
    present = np.frombuffer(pa.foreign_buffer(texts.present, rows.n, rows.handle), np.uint8)
    return data, offsets, present


def _texts(rows: Any, what: str) -> Any:
    data, offsets, present = _text_buffers(rows, what)
    validity = None
    if not present.all():
        validity = pa.py_buffer(np.packbits(present, bitorder="little").tobytes())
    return pa.LargeStringArray.from_buffers(rows.n, offsets, data, validity)
