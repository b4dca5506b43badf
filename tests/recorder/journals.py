"""Writes small journals of random sockets, with the recorder's own writer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa

from recorder.columns import Values
from recorder.journal import BatchMaker, Journals
from recorder.schema import OWNERS, RECORDING_FILE, SAMPLES, SOCKETS, VERSION


def write(directory: Path, samples: int, rows: int = 50, number: int = 1) -> list[tuple[int, int]]:
    """Write a journal of random sockets; return its (sample, cookie) pairs."""
    (directory / RECORDING_FILE).write_text(json.dumps({"version": VERSION}))
    journals = Journals(directory, number)
    makers = {table.name: BatchMaker(table) for table in (SOCKETS, SAMPLES, OWNERS)}
    random = np.random.default_rng(7)
    pairs = []
    for sample in range(samples):
        for part in range(2):
            cookies = random.permutation(rows).astype(np.uint64) * 3 + part
            pairs += [(sample, int(cookie)) for cookie in cookies]
            columns: dict[str, Values | pa.Array] = {
                "sample": Values(np.full(rows, sample, np.uint32)),
                "sample_time": Values(np.full(rows, 10**15 + sample, np.int64)),
                "netns": Values(np.full(rows, 4026531840, np.uint64)),
                "cookie": Values(cookies),
                "rtt_us": Values(random.integers(0, 9, rows).astype(np.uint32), cookies % 2 == 0),
                "bytes_acked": Values(cookies * 1000 + np.uint64(sample)),
                "v6only": Values((cookies % 2).astype(np.uint8)),
                "local_addr": pa.array([f"10.0.{part}.{c}" for c in cookies]).dictionary_encode(),
                "comm": pa.array(["nginx" if c % 2 else None for c in cookies]).dictionary_encode(),
            }
            journals.append("sockets", makers["sockets"].make(rows, columns))
        journals.append(
            "samples",
            makers["samples"].make(
                1,
                {
                    "sample": Values(np.array([sample], np.uint32)),
                    "step": pa.array(["tcp"]).dictionary_encode(),
                },
            ),
        )
        journals.append("owners", makers["owners"].make(1, {"pid": Values(np.array([7], "i4"))}))
        journals.commit(sample)
    journals.close()
    return pairs
