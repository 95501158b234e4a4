"""The spool: order, bounds, a killed process, two processes, a full disk, foreign files."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retina_edge.delivery import spool as spool_module
from retina_edge.delivery.spool import Spool
from retina_edge.delivery.spool_file import MAX_SET_ASIDE, Message, SpoolError, SpoolFile


def numbers(messages: list[Message]) -> list[int]:
    return [json.loads(message.payload)["i"] for message in messages]


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=30
    )


def test_messages_wait_in_order_until_acknowledged(tmp_path: Path) -> None:
    with Spool(tmp_path / "new" / "s.db") as spool:
        assert (len(spool), spool.peek(5), spool.dropped, spool.error) == (0, [], 0, None)
        spool.put({"i": 0, "name": "naïve"})
        (message,) = spool.peek()
        assert json.loads(message.payload) == {"i": 0, "name": "naïve"}
        assert spool.peek() == [message]
        for i in range(1, 6):
            spool.put({"i": i})
        assert numbers(spool.peek(4)) == [0, 1, 2, 3]
        spool.acknowledge(message)
        assert numbers(spool.peek(100)) == [1, 2, 3, 4, 5]
        spool.acknowledge(spool.peek(3)[-1])
        assert (numbers(spool.peek(100)), len(spool)) == ([4, 5], 2)
        spool.acknowledge(message)  # a second time, which has no effect
        assert len(spool) == 2


def test_messages_survive_the_block_and_ids_are_never_reused(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with Spool(path) as spool:
        name = spool.name
        spool.put({"i": 0})
        spool.put({"i": 1})
        before = spool.peek(2)
        spool.acknowledge(before[0])
    with Spool(path) as spool:
        assert spool.name == name
        assert spool.peek(2) == before[1:]
        spool.acknowledge(before[1])
    with Spool(path) as spool:
        spool.put({"i": 2})
        (after,) = spool.peek()
    assert after.id == before[1].id + 1
    assert len({message.key for message in (*before, after)}) == 3


def test_the_oldest_messages_are_dropped_beyond_either_bound(tmp_path: Path) -> None:
    with Spool(tmp_path / "a.db", max_messages=3) as spool:
        for i in range(10):
            spool.put({"i": i})
        assert (numbers(spool.peek(10)), len(spool), spool.dropped) == ([7, 8, 9], 3, 7)
        stale = spool.peek()[0]
        spool.put({"i": 10})
        spool.acknowledge(stale)  # this message was dropped while in flight
        assert (numbers(spool.peek(10)), len(spool), spool.dropped) == ([8, 9, 10], 3, 8)
    with Spool(tmp_path / "b.db", max_bytes=100) as spool:
        for i in range(10):
            spool.put({"i": i, "pad": "x" * 10})
        assert numbers(spool.peek(10)) == [7, 8, 9]
        assert sum(len(message.payload) for message in spool.peek(10)) <= 100
        spool.put({"i": 10, "pad": "x" * 77})
        assert (numbers(spool.peek(10)), spool.dropped) == ([10], 10)
    with Spool(tmp_path / "b.db", max_messages=1) as spool:
        assert len(spool) == 1


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({"i": float("nan")}, "message of JSON values"),
        ({"i": {1}}, "message of JSON values"),
        ({"i": "x" * 300_000}, "at most 262144 bytes, got 300008"),
    ],
)
def test_messages_that_are_too_large_or_not_json_are_refused(
    tmp_path: Path, message: dict[str, Any], error: str
) -> None:
    with Spool(tmp_path / "s.db") as spool:
        with pytest.raises(ValueError, match=error):
            spool.put(message)
        assert (len(spool), spool.dropped) == (0, 0)


def test_names_that_are_not_utf_8_are_kept(tmp_path: Path) -> None:
    name = os.fsdecode(b"v\xff.mp4")
    with Spool(tmp_path / "s.db") as spool:
        spool.put({"source": name})
        assert json.loads(spool.peek()[0].payload.decode()) == {"source": name}


def test_bounds_below_1_and_use_outside_the_block_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 1, got max_messages 0"):
        Spool(tmp_path / "s.db", max_messages=0)
    spool = Spool(tmp_path / "s.db")
    for use in (spool.peek, lambda: spool.put({}), spool.restore):
        with pytest.raises(ValueError, match="inside its with block"):
            use()
    assert list(tmp_path.iterdir()) == []


def test_messages_set_aside_are_restored_at_the_end_of_the_queue(tmp_path: Path) -> None:
    with Spool(tmp_path / "s.db") as spool:
        assert spool.restore() == 0
        for i in range(4):
            spool.put({"i": i})
        keys = [message.key for message in spool.peek(4)]
        for _ in range(2):
            spool.set_aside(spool.peek()[0], "refused")
        assert numbers(spool.peek(9)) == [2, 3]
    with Spool(tmp_path / "s.db") as spool:
        assert spool.restore() == 2
        spool.put({"i": 4})
        assert (numbers(spool.peek(9)), len(spool)) == ([2, 3, 0, 1, 4], 5)
        assert [message.key for message in spool.peek(4)] == [*keys[2:], *keys[:2]]


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="needs /dev/shm; too slow on a disk")
def test_the_number_of_messages_set_aside_is_bounded() -> None:
    path = Path("/dev/shm") / f"retina-edge-test-{os.getpid()}.db"
    try:
        with Spool(path) as spool:
            for i in range(MAX_SET_ASIDE + 5):
                spool.put({"i": i})
                spool.set_aside(spool.peek()[0], "refused")
            assert spool.restore() == MAX_SET_ASIDE
            assert numbers(spool.peek()) == [5]
    finally:
        path.unlink()


def test_a_killed_process_loses_no_message_that_put_returned_for(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom retina_edge.delivery.spool import Spool\n"
        "with Spool(Path(sys.argv[1])) as spool:\n"
        "    for i in range(10**6):\n"
        "        spool.put({'i': i})\n"
        "        print(i, flush=True)\n"
        "        if i % 5 == 4: spool.acknowledge(spool.peek()[0])\n"
    )
    path = tmp_path / "s.db"
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == 60:
                with pytest.raises(SpoolError, match="another process, or another part of this process, uses this"):
                    Spool(path).__enter__()
                process.send_signal(signal.SIGKILL)
                break
        rest = process.stdout.read().split()
    last = int(rest[-1]) if rest else 60
    with Spool(path) as spool:
        kept = numbers(spool.peek(10**6))
    # The message being written at the kill may exist or not. Acknowledged ones may only come again after a power cut.
    assert kept[-1] in (last, last + 1)
    assert kept == list(range(kept[0], kept[-1] + 1))
    assert kept[0] in (last // 5, last // 5 + 1)


def test_a_spool_in_use_cannot_be_opened_again(tmp_path: Path) -> None:
    with Spool(tmp_path / "s.db"), pytest.raises(SpoolError, match="uses this spool; end it, or use another file"):
        Spool(tmp_path / "s.db").__enter__()
    with Spool(tmp_path / "s.db") as spool:
        assert len(spool) == 0


def test_a_foreign_or_damaged_file_is_put_away_and_a_new_spool_begins(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text, database = tmp_path / "notes.txt", tmp_path / "other.db"
    text.write_text("important notes, not a database " * 50)
    other = sqlite3.connect(database)
    other.execute("CREATE TABLE people (name TEXT)")
    other.close()
    for path, reason in ((text, "file is not a database"), (database, "got another SQLite database")):
        before = path.read_bytes()
        with Spool(path) as spool:
            spool.put({"i": 1})
            assert numbers(spool.peek(10)) == [1]
        assert path.with_name(f"{path.name}.damaged-1").read_bytes() == before
        assert reason in caplog.text
        assert f"it is kept as {path.name}.damaged-1, and a new spool begins" in caplog.text


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(["cut", "overwritten", "random"]), seed=st.integers(0, 10**6))
def test_any_damage_leaves_a_spool_that_works(tmp_path: Path, kind: str, seed: int) -> None:
    rng, path = random.Random(seed), tmp_path / f"{kind}{seed}.db"
    with Spool(path) as spool:
        for i in range(50):
            spool.put({"i": i, "text": "x" * 500})
    content = bytearray(path.read_bytes())
    start = rng.randrange(len(content))
    if kind == "cut":
        del content[start:]
    elif kind == "random":
        content = bytearray(rng.randbytes(start))
    else:
        content[start : start + 3000] = rng.randbytes(len(content[start : start + 3000]))
    path.write_bytes(content)
    with Spool(path) as spool:
        spool.put({"i": 1000})
        # The damage may lie inside a message, which SQLite does not notice.
        assert numbers(spool.peek(100)[-1:]) == [1000]
        assert spool.error is None


def test_damage_while_the_spool_is_open_begins_a_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.db"
    monkeypatch.setattr("retina_edge.delivery.spool.RETRY_SECONDS", 0.0)
    with Spool(path) as spool:
        for i in range(50):
            spool.put({"i": i, "text": "x" * 500})
        assert spool._file is not None
        spool._file._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        spool._file._db.execute("PRAGMA cache_size = 0")
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * 30_000)
        for i in range(50, 60):
            with suppress(SpoolError):
                spool.put({"i": i})
            with suppress(SpoolError):
                spool.peek(100)
        assert numbers(spool.peek(100))[-1] == 59
        assert spool.error is None


def test_two_threads_put_and_take_messages_in_order(tmp_path: Path) -> None:
    with Spool(tmp_path / "s.db") as spool:

        def produce() -> None:
            for i in range(300):
                spool.put({"i": i})

        producer = threading.Thread(target=produce)
        producer.start()
        taken: list[int] = []
        while producer.is_alive() or len(spool):
            for message in spool.peek(3):
                taken += numbers([message])
                spool.acknowledge(message)
        producer.join()
        assert (taken, len(spool), spool.dropped) == (list(range(300)), 0, 0)


FULL_DISK = """
import resource, sys
from pathlib import Path
from retina_edge.delivery import spool as module
from retina_edge.delivery.spool import Spool, SpoolError
module.RETRY_SECONDS = 0.0
module.MEMORY_BOUNDS = module.SpoolSize(40, 10**6)
import json
def numbers(messages): return [json.loads(message.payload)["i"] for message in messages]
with Spool(Path(sys.argv[1])) as spool:
    spool.put({"i": 0})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    raised = []
    count = 1
    while spool.in_memory < 40:
        try:
            spool.put({"i": count, "pad": "x" * 5000})
        except SpoolError as error:
            raised.append(str(error))
        count += 1
    assert len(raised) == 1 and "cannot be written to the disk" in raised[0] and "free some space" in raised[0], raised
    assert spool.error is not None and spool.dropped == 0 and len(spool) == count
    # The order holds across disk and memory. Messages can be acknowledged although the disk cannot delete them.
    assert numbers(spool.peek(count)) == list(range(count))
    spool.acknowledge(spool.peek(5)[-1])
    assert numbers(spool.peek(count)) == list(range(5, count))
    # The messages in memory are bounded.
    for _ in range(3):
        spool.put({"i": count}); count += 1
    assert spool.dropped == 3 and spool.in_memory == 40
    memory = numbers(spool.peek(count))[-40:]
    assert memory == list(range(count - 40, count)), memory
    # The disk works again: no message waits in memory, and the order is kept.
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    spool.put({"i": count}); count += 1
    assert spool.in_memory == 0 and spool.error is None
    held = numbers(spool.peek(count))
    assert held == sorted(held) and held[0] == 5 and held[-1] == count - 1
    assert len(held) == len(spool) == count - 5 - spool.dropped
print("held", held[0], held[-1], len(held))
"""


def test_a_full_disk_is_reported_once_and_new_messages_wait_in_memory(tmp_path: Path) -> None:
    run = run_python(FULL_DISK, tmp_path / "s.db")
    assert run.returncode == 0, run.stderr
    _, first, last, count = run.stdout.split()
    with Spool(tmp_path / "s.db") as spool:
        kept = numbers(spool.peek(10**6))
    assert (kept[0], kept[-1], len(kept)) == (int(first), int(last), int(count))


READ_ONLY = """
import os, sys
from pathlib import Path
from retina_edge.delivery.spool import Spool, SpoolError
import retina_edge.delivery.spool_file
if os.getuid() == 0:
    os.setgid(65534); os.setuid(65534)
with Spool(Path(sys.argv[1])) as spool:
    try:
        spool.put({"i": 0})
    except SpoolError as error:
        print(error)
    spool.put({"i": 1})
    assert len(spool) == spool.in_memory == 2
    spool.set_aside(spool.peek()[0], "no")
    assert len(spool) == 1 and spool.dropped == 1
assert spool.dropped == 2
"""


def test_a_read_only_folder_is_reported_once() -> None:
    # As root, the test continues as another user, who cannot read pytest's folders. Use a separate one.
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o755)
        folder = Path(parent) / "ro"
        folder.mkdir()
        folder.chmod(0o555)
        run = run_python(READ_ONLY, folder / "s.db")
        assert run.returncode == 0, run.stderr
        assert run.stdout.count("choose another folder with --spool") == 1
        assert "1 messages are lost" in run.stderr
        assert list(folder.iterdir()) == []


def test_a_folder_that_becomes_writable_takes_the_waiting_messages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "RETRY_SECONDS", 0.0)
    folder = tmp_path / "folder"
    folder.write_text("a file instead of the folder")
    with Spool(folder / "s.db") as spool:
        with pytest.raises(SpoolError, match="cannot be written"):
            spool.put({"i": 0})
        assert spool.in_memory == 1
        folder.unlink()
        assert numbers(spool.peek()) == [0]
        assert (spool.in_memory, len(spool), spool.error) == (0, 1, None)
        spool.put({"i": 1})
    with Spool(folder / "s.db") as spool:
        assert numbers(spool.peek(9)) == [0, 1]


def test_each_outage_of_the_disk_is_reported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "RETRY_SECONDS", 0.0)
    append = SpoolFile.append
    broken = True

    def fail(self: SpoolFile, *arguments: Any, **options: Any) -> Any:
        if broken:
            raise OSError("disk full")
        return append(self, *arguments, **options)

    monkeypatch.setattr(SpoolFile, "append", fail)
    with Spool(tmp_path / "s.db") as spool:
        for outage in range(2):
            broken = True
            with pytest.raises(SpoolError, match="disk full"):
                spool.put({"i": 3 * outage})
            spool.put({"i": 3 * outage + 1})
            broken = False
            spool.put({"i": 3 * outage + 2})
            assert (spool.in_memory, spool.error) == (0, None)
        assert numbers(spool.peek(9)) == list(range(6))


def test_a_spool_of_an_earlier_run_that_appears_later_is_not_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "RETRY_SECONDS", 0.0)
    with Spool(tmp_path / "old" / "s.db") as spool:
        spool.put({"i": 7})
    folder = tmp_path / "folder"
    folder.write_text("a file instead of the folder")
    with Spool(folder / "s.db") as spool:
        with pytest.raises(SpoolError, match="cannot be written"):
            spool.put({"i": 0})
        folder.unlink()
        (tmp_path / "old").rename(folder)
        assert numbers(spool.peek(9)) == [0]
        assert spool.error is not None
        assert "restart to send them" in spool.error
        spool.acknowledge(spool.peek()[0])
    with Spool(folder / "s.db") as spool:
        assert numbers(spool.peek(9)) == [7]
