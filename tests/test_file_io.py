"""Files of which a kill leaves the old content or the new, and what else touches the disk."""

import os
import resource
import signal

import pytest

from guided_diffusion import file_io

OLD, NEW = b"old" * 1000, b"new" * 200_000


def test_write_makes_folders_replaces_and_leaves_nothing_beside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "usual").write_bytes(b"")
    for path in ("file.bin", "a/b/file.bin"):
        for content in (OLD, NEW):
            file_io.write_atomic(path, content)
        assert file_io.read_bytes(path) == NEW
        assert os.stat(path).st_mode == os.stat("usual").st_mode
    assert os.listdir("a/b") == ["file.bin"]


def _die(*_args):
    os.kill(os.getpid(), signal.SIGKILL)


def _kill_mid_write():
    """The kernel kills the process when the temporary file outgrows half of its content."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(NEW) // 2, len(NEW) // 2))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@pytest.mark.parametrize("moment", ["write", "fsync", "replace", "open"])  # os.open: of the folder, after the rename
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_kill_leaves_the_old_content_or_the_new(tmp_path, moment):
    path, expected = str(tmp_path / "file.bin"), NEW if moment == "open" else OLD
    file_io.write_atomic(path, OLD)
    child = os.fork()
    if child == 0:
        try:
            _kill_mid_write() if moment == "write" else setattr(os, moment, _die)
            file_io.write_atomic(path, NEW)
        finally:
            os._exit(0)  # not reached: the child dies on the way
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert file_io.read_bytes(path) == expected
    assert len(os.listdir(tmp_path)) == (1 if expected == NEW else 2)
    (tmp_path / ".hidden").touch()
    file_io.remove_temporaries(str(tmp_path))
    file_io.remove_temporaries(str(tmp_path / "absent"))
    assert sorted(os.listdir(tmp_path)) == [".hidden", "file.bin"]


def test_a_failed_write_keeps_the_old_content_and_cleans_up(tmp_path, monkeypatch):
    def no_space(_descriptor):
        raise OSError(28, "No space left on device")

    path = str(tmp_path / "file.bin")
    file_io.write_atomic(path, OLD)
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        file_io.write_atomic(path, NEW)
    assert file_io.read_bytes(path) == OLD and os.listdir(tmp_path) == ["file.bin"]


def test_lies_in():
    for path, folder in (("a", "a/"), ("a/../a/b", "./a"), ("gs://x/a/b", "gs://x/a")):
        assert file_io.lies_in(path, folder)
    for path, folder in (("a", "a/b"), ("ab", "a"), ("gs://x/ab", "gs://x/a"), ("gs://x/a", ".")):
        assert not file_io.lies_in(path, folder)


def test_write_if_changed(tmp_path):
    path, content = tmp_path / "folder" / "file", os.urandom(17)
    assert file_io.write_if_changed(str(path), content)
    before = path.stat().st_mtime_ns
    assert not file_io.write_if_changed(str(path), content)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (content, before)
    assert file_io.write_if_changed(str(path), b"newer") and path.read_bytes() == b"newer"
