import hashlib
import io
import os
import resource
import signal

import blobfile as bf
import numpy as np
import pytest
from PIL import Image

from guided_diffusion import file_io
from guided_diffusion.errors import InputError

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
    file_io.remove_temporaries(str(tmp_path))
    assert os.listdir(tmp_path) == ["file.bin"]


def test_a_failed_write_keeps_the_old_content_and_cleans_up(tmp_path, monkeypatch):
    def no_space(_descriptor):
        raise OSError(28, "No space left on device")

    path = str(tmp_path / "file.bin")
    file_io.write_atomic(path, OLD)
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        file_io.write_atomic(path, NEW)
    assert file_io.read_bytes(path) == OLD
    assert os.listdir(tmp_path) == ["file.bin"]


def test_a_cloud_write_is_one_object_write_and_touches_no_disk(tmp_path, monkeypatch):
    writes = []
    monkeypatch.setattr(bf, "write_bytes", lambda path, data: writes.append((path, data)))
    monkeypatch.chdir(tmp_path)
    file_io.write_atomic("gs://bucket/runs/file.bin", NEW)
    file_io.remove_temporaries("gs://bucket/runs")
    assert writes == [("gs://bucket/runs/file.bin", NEW)]
    assert os.listdir(tmp_path) == []


def test_remove_temporaries_takes_nothing_else_and_no_folder_is_fine(tmp_path):
    (tmp_path / ".tmp-1234").write_bytes(b"half")
    (tmp_path / "keep.png").write_bytes(b"whole")
    (tmp_path / ".hidden").write_bytes(b"whole")
    file_io.remove_temporaries(str(tmp_path))
    file_io.remove_temporaries(str(tmp_path / "absent"))
    assert sorted(os.listdir(tmp_path)) == [".hidden", "keep.png"]


def test_json_round_trip_and_error_names_the_file(tmp_path):
    path = str(tmp_path / "dataset.json")
    file_io.write_json(path, {"label_map": {"Riß": 1}})
    assert file_io.read_json(path) == {"label_map": {"Riß": 1}}
    for broken in (b'{"label_map": ', b"\xff\xfe\x00"):
        file_io.write_atomic(path, broken)
        with pytest.raises(InputError, match=r"dataset\.json: is not valid JSON"):
            file_io.read_json(path)
    with pytest.raises(FileNotFoundError):
        file_io.read_json(str(tmp_path / "absent.json"))


@pytest.mark.parametrize(
    ("path", "folder", "expected"),
    [
        ("a", "a/", True),
        ("a/b", "a", True),
        ("a/../a/b", "./a", True),
        ("a", "a/b", False),
        ("ab", "a", False),
        ("gs://x/a/b", "gs://x/a", True),
        ("gs://x/ab", "gs://x/a", False),
        ("gs://x/a", ".", False),
    ],
)
def test_lies_in(path, folder, expected):
    assert file_io.lies_in(path, folder) is expected


def test_ensure_writable_makes_the_folder_or_names_flag_and_folder(tmp_path):
    file_io.ensure_writable(str(tmp_path / "a" / "b"), "--work_dir")
    assert os.listdir(tmp_path / "a" / "b") == []
    (tmp_path / "file").write_bytes(b"")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", "nostore://x/y"):
        with pytest.raises(InputError, match=rf"--work_dir: cannot write to '{folder}'"):
            file_io.ensure_writable(str(folder), "--work_dir")


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_png_round_trip(shape):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(file_io.encode_png(array)))), array)
    for wrong in (array.astype(float), array[..., None, None], array[0, 0]):
        with pytest.raises(ValueError, match="expected uint8"):
            file_io.encode_png(wrong)


def test_write_if_changed_and_sha256(tmp_path):
    path, content = tmp_path / "folder" / "file", os.urandom(3 * (1 << 20) + 17)
    assert file_io.write_if_changed(str(path), content)
    before = path.stat().st_mtime_ns
    assert not file_io.write_if_changed(str(path), content)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (content, before)
    assert file_io.sha256_file(str(path)) == hashlib.sha256(content).hexdigest()
    assert file_io.write_if_changed(str(path), b"newer") and path.read_bytes() == b"newer"
