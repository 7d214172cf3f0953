"""Files of which a kill leaves the old content or the new, and what else touches the disk."""

import errno
import json
import os
import resource
import signal
import socket
import subprocess
import sys

import pytest

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


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EACCES])
def test_a_failed_write_keeps_the_old_content_and_cleans_up(tmp_path, monkeypatch, capsys, number):
    def fails(_descriptor):
        raise OSError(number, os.strerror(number))

    path = str(tmp_path / "file.bin")
    file_io.write_atomic(path, OLD)
    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(InputError, match=rf"cannot write '{path}' \({os.strerror(number)}\); free space"):
        file_io.write_atomic(path, NEW)
    with pytest.raises(InputError, match=rf"^--out: cannot write '{path}' \({os.strerror(number)}\); go away$"):
        file_io.write_atomic(path, NEW, "--out", "go away")
    for name in (path, path, path + "2"):
        file_io.write_or_warn(name, NEW)
    assert capsys.readouterr().err.count("warning: cannot write") == 2
    assert file_io.read_bytes(path) == OLD and os.listdir(tmp_path) == ["file.bin"]


@pytest.mark.parametrize("kind", ["folder", "pipe", "socket", "device", "link", "output"])
def test_only_regular_files_are_read_and_replaced(tmp_path, kind):
    path, targets = tmp_path / kind, {"device": os.devnull, "link": "pipe", "output": "/proc/self/fd/0"}
    os.mkfifo(tmp_path / "pipe")
    if kind == "folder":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.path.relpath(path))
    elif kind in targets:
        path.symlink_to(targets[kind])
    before = os.lstat(path)
    with pytest.raises(InputError, match="cannot be written"):
        file_io.write_atomic(str(path), b"")
    assert os.lstat(path) == before
    if kind != "output":
        with pytest.raises(InputError, match="cannot be read, it is a (folder|pipe|socket|device)"):
            file_io.read_bytes(str(path))


def test_a_link_to_a_file_is_replaced_not_followed(tmp_path):
    for target in ("file", "absent"):
        (tmp_path / "file").write_bytes(OLD)
        (link := tmp_path / target[::-1]).symlink_to(target)
        file_io.write_atomic(str(link), NEW)
        assert (tmp_path / "file").read_bytes() == OLD and link.read_bytes() == NEW and not link.is_symlink()


def test_a_short_read_is_refused_and_a_missing_file_is_not_there(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(OLD)
    with pytest.raises(FileNotFoundError):
        file_io.read_bytes(str(tmp_path / "absent"))
    for path in (tmp_path / "file" / "below", tmp_path / ("long" * 100), "nul\0l"):
        with pytest.raises(InputError, match="cannot be read"):
            file_io.read_bytes(str(path))
    size = os.fstat

    def longer(descriptor):
        return os.stat_result([*size(descriptor)[:6], len(OLD) + 1, *size(descriptor)[7:10]])

    monkeypatch.setattr(os, "fstat", longer)
    with pytest.raises(InputError, match=r"changed or cut while it was read \(3000 of 3001 bytes\)"):
        file_io.read_bytes(str(tmp_path / "file"))


def test_lies_in():
    for path, folder in (("a", "a/"), ("a/../a/b", "./a"), ("gs://x/a/b", "gs://x/a")):
        assert file_io.lies_in(path, folder)
    for path, folder in (("a", "a/b"), ("ab", "a"), ("gs://x/ab", "gs://x/a"), ("gs://x/a", ".")):
        assert not file_io.lies_in(path, folder)


LEADING_OUT = ("/a", "..", ".", "../a", "a/../../b", "a/..", "away/a", "gs://a/b")
NO_NAMES = ("", "a\0b", "\ud800", 5, None, True, [], {})


@pytest.mark.parametrize("name", LEADING_OUT + NO_NAMES, ids=ascii)
def test_names_from_files_stay_in_their_folder(tmp_path, name):
    folder, outside = tmp_path / "in", tmp_path / "out"
    folder.mkdir(), outside.mkdir(), (folder / "away").symlink_to("../out")
    (outside / "a").touch()
    for use in (file_io.inside, file_io.remove_inside):
        with pytest.raises(InputError, match=rf"^list: line 3 .* name a file in {folder}$|nothing is deleted there"):
            use(str(folder), name, "list: line 3")
    assert (outside / "a").exists() and (folder / "away").is_symlink()
    if isinstance(name, str) and name != "away/a":
        with pytest.raises(InputError):
            file_io.inside("gs://bucket/folder", name, "list")


def test_what_stays_in_the_folder_is_used_and_of_a_link_the_link_is_removed(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "blob").touch(), (folder / "link").symlink_to("../blob")
    assert file_io.inside(str(folder), "b/../c.png", "list") == f"{folder}/b/../c.png"
    assert file_io.inside(str(folder), "link", "list", links=True) == f"{folder}/link"
    assert file_io.inside("gs://bucket/folder", "a/b", "list") == "gs://bucket/folder/a/b"
    with pytest.raises(InputError, match="leads out of its folder"):
        file_io.inside(str(folder), "link", "list")
    assert file_io.remove_inside(str(folder), "link", "list") and not file_io.remove_inside(str(folder), "link", "list")
    assert os.listdir(folder) == [] and (tmp_path / "blob").exists()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"{", "delimiter|Expecting"),
        (b'"\xff\xfe"', "decode"),
        (b"[" * 101 + b"]" * 101, "nested deeper than 100"),
        (b'{"a":' * 100_000, "nested deeper than 100"),
        (b'[1, {"a": 1, "a": 2}]', "the key 'a' stands twice"),
        *((text, "is no number") for text in (b"NaN", b"[-Infinity]", b"1e999")),
        (b'{"\\uD800": 1}', "surrogates"),
        (b"9" * 5000, "digit"),
    ],
)
def test_json_that_would_do_harm_is_refused_in_one_line(tmp_path, text, fault):
    (tmp_path / "file.json").write_bytes(text)
    with pytest.raises(InputError, match=rf"file\.json: is not valid JSON \(.*({fault}).*mend or remove it") as error:
        file_io.read_json(str(tmp_path / "file.json"))
    assert len(str(error.value)) < 400


def test_json_keeps_all_else(tmp_path):
    value = {"deep": json.loads("[" * 99 + "]" * 99), "text": "[{" * 200 + '\\"', "smile": "\U0001f600", "n": [1, -2.5]}
    path = tmp_path / "file.json"
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        path.write_text(text)
        assert file_io.read_json(str(path)) == value


HOLD = """
import sys
from guided_diffusion.file_io import lock_folder
with lock_folder(sys.argv[1], ""):
    print(1, flush=True)
    input()
"""


def test_a_folder_is_locked_while_its_process_lives(tmp_path):
    folder = str(tmp_path / "new")
    command = [sys.executable, "-c", HOLD, folder]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"1\n"
        told = rf"^--work_dir {folder}: process {other.pid} on {socket.gethostname()} is at work there"
        with pytest.raises(InputError, match=told), file_io.lock_folder(folder, "--work_dir"):
            pass
        other.kill()
    assert os.listdir(folder) == [".lock"]
    for name in (folder, folder, f"{folder}er"):
        with file_io.lock_folder(name, "--work_dir"):
            assert os.listdir(name) == [".lock"]
    assert os.listdir(tmp_path) == ["new"] and os.listdir(folder) == []  # what was made for the lock is gone


def test_where_no_lock_is_known_a_warning_tells(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(file_io, "fcntl", None)
    monkeypatch.setattr(file_io, "ensure_writable", lambda *where: None)
    for folder in (tmp_path, tmp_path, "gs://bucket"):
        with file_io.lock_folder(str(folder), "--out"):
            pass
    assert capsys.readouterr().err.count("cannot be locked (not supported)") == 1
