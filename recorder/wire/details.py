"""The column ``details``: fields that few kinds of sockets have, as the text of a JSON object.

It is built from whole columns. A *fragment* is a text array of JSON values, NULL where a row has
none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recorder.wire.columns import Values

Fields = Mapping[str, Values | pa.Array]
"""Numbers (or booleans) as Values, anything else as fragments. A name ``a.b`` is field b of the
object a; the fields of one object follow each other."""


def column(fields: Fields, rows: int) -> pa.DictionaryArray:
    """Return one object per row, without its NULL fields; NULL where there is none at all."""
    return objects(fields, rows).dictionary_encode()


def objects(fields: Fields, rows: int) -> pa.StringArray:
    """Return the objects as fragments."""
    pieces = []
    for name, values in _nested(fields).items():
        if isinstance(values, dict):
            fragment = objects(values, rows)
        elif isinstance(values, Values):
            fragment = _numbers(values)
        else:
            fragment = values
        if fragment.null_count < rows:
            pieces.append(pc.binary_join_element_wise(f'"{name}":', fragment, ",", ""))
    if not pieces:
        return pa.nulls(rows, pa.string())
    # not null_handling="skip": pyarrow then leaves out rows in which everything is NULL
    inside = pc.binary_join_element_wise(*pieces, "", null_handling="replace")
    whole = pc.binary_join_element_wise("{", pc.ascii_rtrim(inside, ","), "}", "")
    return pc.if_else(pc.equal(inside, ""), pa.scalar(None, pa.string()), whole)


def _nested(fields: Fields) -> dict[str, Values | pa.Array | dict[str, Values | pa.Array]]:
    result: dict[str, Values | pa.Array | dict[str, Values | pa.Array]] = {}
    for name, values in fields.items():
        outer, dot, inner = name.partition(".")
        nest = result.setdefault(outer, {}) if dot else None
        if isinstance(nest, dict):
            nest[inner] = values
        else:
            result[name] = values
    return result


def _numbers(values: Values) -> pa.StringArray:
    data = np.ascontiguousarray(values.data, values.data.dtype.newbyteorder("="))
    mask = None if values.valid is None else ~values.valid
    return pa.array(data, mask=mask).cast(pa.string())


def strings(texts: pa.Array) -> pa.StringArray:
    """Return texts, of which there are few kinds, as fragments."""
    if not pa.types.is_dictionary(texts.type):
        texts = texts.dictionary_encode()
    quoted = pa.array([json.dumps(text) for text in texts.dictionary.to_pylist()], pa.string())
    return quoted.take(texts.indices)


def arrays(elements: pa.Array, counts: npt.NDArray[np.int64]) -> pa.StringArray:
    """Return fragments as JSON arrays of ``counts`` elements each; NULL where there are none."""
    joined = joined_lists(elements, counts)
    return pc.binary_join_element_wise("[", joined, "]", "")


def joined_lists(texts: pa.Array, counts: npt.NDArray[np.int64]) -> pa.StringArray:
    """Return ``counts`` texts each joined by commas; NULL where there are none."""
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    lists = pa.ListArray.from_arrays(pa.array(offsets), texts)
    joined = pc.binary_join(lists, ",")
    return pc.if_else(pa.array(counts > 0), joined, pa.scalar(None, pa.string()))
