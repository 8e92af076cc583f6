"""Opening the ledger's file: made once, refused when corrupt or of another version."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from tests.support.processes import ROOT

from prefect_slots.errors import LedgerUnreadable
from prefect_slots.ledger import schema


def test_opening_twice_finds_the_same_ledger(tmp_path: Path) -> None:
    ids: set[str] = set()
    for _ in range(2):
        with closing(schema.connect(tmp_path)) as connection:
            ids.add(connection.execute("SELECT value FROM meta WHERE key='ledger_id'").fetchone()[0])
    assert len(ids) == 1


def test_the_file_is_in_wal_mode_with_foreign_keys(tmp_path: Path) -> None:
    with closing(schema.connect(tmp_path)) as connection:
        settings = [
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert settings == ["wal", 0, 1]


@pytest.mark.parametrize("content", [b"no database at all " * 200, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_corrupt_file_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / schema.FILE
    path.write_bytes(content)
    with pytest.raises(LedgerUnreadable, match="cannot be read as a ledger") as caught:
        schema.connect(tmp_path)
    assert caught.value.path == str(path)
    assert "move the file away" in caught.value.reason
    assert path.read_bytes() == content


def test_a_file_of_another_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    schema.connect(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / schema.FILE)) as connection:
        connection.execute(f"PRAGMA user_version={schema.VERSION + 1}")
    with pytest.raises(LedgerUnreadable, match=f"version {schema.VERSION + 1}.*reads version {schema.VERSION}"):
        schema.connect(tmp_path)
    with closing(sqlite3.connect(tmp_path / schema.FILE)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone()[0] == schema.VERSION + 1


def test_a_folder_that_is_gone_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(LedgerUnreadable):
        schema.connect(tmp_path / "gone")


CREATE = """
import sys
from pathlib import Path
from prefect_slots.ledger import schema
print("ready", flush=True)
sys.stdin.readline()
for folder in sys.argv[1:]:
    connection = schema.connect(Path(folder))
    print(connection.execute("SELECT value FROM meta WHERE key='ledger_id'").fetchone()[0])
    connection.close()
"""


def test_many_processes_that_make_it_at_once_make_one(tmp_path: Path) -> None:
    folders = [tmp_path / f"round-{number}" for number in range(30)]
    for folder in folders:
        folder.mkdir()
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CREATE, *map(str, folders)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    outputs = [child.communicate(timeout=60) for child in children]
    assert [child.returncode for child in children] == [0] * 6, outputs
    seen = {out for out, _ in outputs}
    assert len(seen) == 1, "each round, every process must see one and the same ledger"
    assert len(seen.pop().split()) == len(folders)
