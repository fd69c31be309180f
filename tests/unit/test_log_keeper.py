"""What a server prints: nothing of it is lost, in whatever pieces it comes, and its files stay small."""

import fcntl
import os
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud_platform.run import log_keeper
from fraud_platform.run.log_keeper import KEPT, keep


def kept(folder: Path) -> list[bytes]:
    """Files, the oldest first."""
    files = [folder / f"log.{number}" for number in range(KEPT + 5, 0, -1)] + [folder / "log"]
    return [path.read_bytes() for path in files if path.exists()]


def printed(folder: Path, pieces: list[bytes], most: int) -> None:
    """Keep what comes in these pieces, each read by itself."""
    source, sink = os.pipe()
    thread = threading.Thread(target=keep, args=(source, str(folder / "log"), most))
    thread.start()
    for piece in pieces:
        os.write(sink, piece)
    os.close(sink)
    thread.join(30)
    os.close(source)
    assert not thread.is_alive()


@given(lines=st.lists(st.integers(0, 40), max_size=30), cuts=st.lists(st.integers(1, 60), min_size=1), data=st.data())
def test_files_end_with_lines_and_hold_the_newest_of_all_that_came(
    tmp_path_factory: pytest.TempPathFactory, lines: list[int], cuts: list[int], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("kept")
    most = data.draw(st.integers(41, 200))
    text = b"".join(b"%03d" % number + b"x" * length + b"\n" for number, length in enumerate(lines))
    pieces, rest = [], text
    while rest:
        cut = cuts[len(pieces) % len(cuts)]
        pieces.append(rest[:cut])
        rest = rest[cut:]
    printed(folder, pieces, most)
    files = kept(folder)
    assert len(files) <= KEPT + 1
    assert text.endswith(b"".join(files))
    if len(files) <= KEPT:
        assert b"".join(files) == text
    assert all(file.endswith(b"\n") for file in files if file)
    assert all(most <= len(file) < most + 44 for file in files[:-1])
    assert len(files[-1]) < most + 44


def test_a_line_without_end_is_cut(tmp_path: Path) -> None:
    printed(tmp_path, [b"x" * 1_000 for _ in range(10)], 500)
    assert [len(file) for file in kept(tmp_path)] == [1_000] * (KEPT + 1)


def test_what_was_there_is_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"before\n")
    printed(tmp_path, [b"after\n"], 100)
    assert kept(tmp_path) == [b"before\nafter\n"]
    assert (tmp_path / "log").read_bytes() == b"before\nafter\n"


def test_it_reads_on_where_it_cannot_write_and_says_how_much_was_lost(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    source, sink = os.pipe()
    command = [sys.executable, "-I", "-S", log_keeper.__file__, str(folder / "log"), "100000"]
    keeper = subprocess.Popen(command, stdin=source, env={})
    os.close(source)
    try:
        for _ in range(100):  # more than a pipe holds: whoever prints is not held up
            os.write(sink, b"x" * 9_999 + b"\n")
        while int.from_bytes(fcntl.ioctl(sink, termios.FIONREAD, bytes(4)), sys.byteorder):
            time.sleep(0.01)
        os.write(sink, b"the last of what is lost\n")
        time.sleep(0.2)
        folder.mkdir()
        os.write(sink, b"now\n")
        os.close(sink)
        assert keeper.wait(30) == 0
    finally:
        keeper.kill()
        keeper.wait()
    assert (folder / "log").read_bytes() == b"[1000025 bytes could not be written here]\nnow\n"
