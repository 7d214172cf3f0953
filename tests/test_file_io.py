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


def test_write_makes_folders_replaces_and_leaves_nothing_beside(tmp_path):
    path = str(tmp_path / "a" / "b" / "file.bin")
    file_io.write_atomic(path, OLD)
    file_io.write_atomic(path, NEW)
    assert file_io.read_bytes(path) == NEW
    assert os.listdir(tmp_path / "a" / "b") == ["file.bin"]


def test_write_takes_a_path_without_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file_io.write_atomic("file.bin", NEW)
    assert (tmp_path / "file.bin").read_bytes() == NEW


def test_written_files_have_the_usual_permissions(tmp_path):
    (tmp_path / "usual").write_bytes(b"")
    file_io.write_atomic(str(tmp_path / "ours"), b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


def _die(*_args):
    os.kill(os.getpid(), signal.SIGKILL)


def _kill_mid_write():
    """The kernel kills the process when the temporary file outgrows half of its content."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(NEW) // 2, len(NEW) // 2))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _kill_before_sync():
    os.fsync = _die


def _kill_before_rename():
    os.replace = _die


def _kill_after_rename():
    file_io._sync_folder = _die


@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        (_kill_mid_write, OLD),
        (_kill_before_sync, OLD),
        (_kill_before_rename, OLD),
        (_kill_after_rename, NEW),
    ],
)
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_kill_leaves_the_old_content_or_the_new(tmp_path, prepare, expected):
    path = str(tmp_path / "file.bin")
    file_io.write_atomic(path, OLD)
    child = os.fork()
    if child == 0:
        try:
            prepare()
            file_io.write_atomic(path, NEW)
        finally:
            os._exit(0)  # not reached: the child dies on the way
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status)
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


def test_ensure_writable_makes_the_folder_and_leaves_it_empty(tmp_path):
    file_io.ensure_writable(str(tmp_path / "a" / "b"), "--work_dir")
    assert os.listdir(tmp_path / "a" / "b") == []


@pytest.mark.parametrize("folder", ["file", "file/below"])
def test_ensure_writable_names_flag_and_folder(tmp_path, folder):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match=rf"--work_dir: cannot write to '.*{folder}'") as caught:
        file_io.ensure_writable(str(tmp_path / folder), "--work_dir")
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["file"]


def test_ensure_writable_refuses_an_unknown_store():
    with pytest.raises(InputError, match="--sample_dir: cannot write to 'nostore://x/y'"):
        file_io.ensure_writable("nostore://x/y", "--sample_dir")


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


@pytest.mark.parametrize(("shape", "mode"), [((5, 7), "L"), ((5, 7, 3), "RGB")])
def test_png_round_trip(shape, mode):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    image = Image.open(io.BytesIO(file_io.encode_png(array)))
    assert image.mode == mode
    assert np.array_equal(np.asarray(image), array)


@pytest.mark.parametrize("array", [np.zeros((4, 4)), np.zeros((4, 4, 4), np.uint8), np.zeros(4, np.uint8)])
def test_png_refuses_other_arrays(array):
    with pytest.raises(ValueError, match="expected uint8"):
        file_io.encode_png(array)


def test_sha256_is_of_the_whole_file(tmp_path):
    content = os.urandom(3 * (1 << 20) + 17)
    file_io.write_atomic(str(tmp_path / "file.bin"), content)
    assert file_io.sha256_file(str(tmp_path / "file.bin")) == hashlib.sha256(content).hexdigest()


def test_write_if_changed(tmp_path):
    path = tmp_path / "folder" / "file"
    assert file_io.write_if_changed(str(path), b"new")
    before = path.stat().st_mtime_ns
    assert not file_io.write_if_changed(str(path), b"new")
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (b"new", before)
    assert file_io.write_if_changed(str(path), b"newer")
    assert path.read_bytes() == b"newer"


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
