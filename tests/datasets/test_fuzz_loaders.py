"""Damaged and forged files: refused in words that name the file, or read as they were.

Never half read, never unpacked outside memory, never unpickled.
"""

import gzip
import hashlib
import io
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from experiments.backbones import weights
from experiments.common import record
from lagrange_jax.datasets import cifar100_files, manual_files
from lagrange_jax.datasets.cmapss_files import Checksum, read_subset

NAMES = ("train_FD001.txt", "test_FD001.txt", "RUL_FD001.txt")
NUM_FLIPS, NUM_CUTS = 150, 40
REFUSALS = (ValueError, FileNotFoundError)


def texts():
    """Two engines of a few flights, in the columns of C-MAPSS."""
    rng = np.random.default_rng(0)
    rows = [(unit, cycle) for unit in (1, 2) for cycle in (1, 2, 3)]
    lines = [
        " ".join([*map(str, row), *(f"{x:.4f}" for x in rng.uniform(0, 500, 24))])
        for row in rows
    ]
    table = "".join(line + " \n" for line in lines).encode()
    return dict(zip(NAMES, (table, table, b"7 \n9 \n"), strict=True))


TEXTS = texts()
CHECKSUMS = {
    name: Checksum(len(text), hashlib.sha256(text).hexdigest())
    for name, text in TEXTS.items()
}


def write_plain(folder):
    for name, text in TEXTS.items():
        (folder / name).write_bytes(text)
    return [folder / name for name in TEXTS]


def write_packed(folder):
    for name, text in TEXTS.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(text, mtime=0))
    return [folder / f"{name}.gz" for name in TEXTS]


def write_zipped(folder):
    path = folder / "CMAPSSData.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in TEXTS.items():
            archive.writestr(name, text)
    return [path]


def read(folder):
    engines = read_subset(folder, "FD001", CHECKSUMS)
    return [(kind, e.unit, e.rul, e.settings.tobytes(), e.sensors.tobytes())
            for kind, part in engines.items() for e in part]  # fmt: skip


def damaged(whole, rng):
    """Cut short at random lengths, and with random bits flipped, appended, repeated."""
    for length in rng.integers(0, len(whole), NUM_CUTS):
        yield whole[:length]
    for place in rng.integers(0, len(whole), NUM_FLIPS):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << rng.integers(0, 8)
        yield bytes(flipped)
    yield whole + whole
    yield rng.bytes(len(whole))
    yield b""


@pytest.mark.parametrize("write", [write_plain, write_packed, write_zipped])
def test_a_damaged_file_is_refused_or_reads_as_it_was(write, tmp_path):
    paths, rng = write(tmp_path), np.random.default_rng(0)
    wanted, num_refused, num_tried = read(tmp_path), 0, 0
    for path in paths:
        whole = path.read_bytes()
        for content in damaged(whole, rng):
            path.write_bytes(content)
            num_tried += 1
            try:
                assert read(tmp_path) == wanted
            except REFUSALS as error:
                num_refused += 1
                assert any(name.split(".")[0] in str(error) for name in NAMES)
        path.write_bytes(whole)
    assert num_refused > 0.8 * num_tried
    assert read(tmp_path) == wanted


@pytest.mark.parametrize("name", ["../{}", "/tmp/{}", "a/../../{}", "..\\{}"])
def test_an_archive_that_leads_outside_is_refused_and_writes_nothing(name, tmp_path):
    folder = tmp_path / "inner"
    folder.mkdir()
    with zipfile.ZipFile(folder / "CMAPSSData.zip", "w") as archive:
        for text_name, text in TEXTS.items():
            archive.writestr(name.format(text_name), text)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="leads out"):
        read(folder)
    assert sorted(tmp_path.rglob("*")) == before
    assert not any(Path("/tmp", text_name).exists() for text_name in TEXTS)


@pytest.mark.parametrize("form", ["gz", "zip", "plain"])
def test_what_unpacks_to_too_much_is_not_read(form, tmp_path, monkeypatch):
    monkeypatch.setattr(manual_files, "_MAX_BYTES", 10_000)
    bomb = b"1 " * 10_000
    for name in NAMES:
        if form == "plain":
            (tmp_path / name).write_bytes(bomb)
        elif form == "gz":
            (tmp_path / f"{name}.gz").write_bytes(gzip.compress(bomb))
        else:
            with zipfile.ZipFile(tmp_path / "CMAPSSData.zip", "a", 8) as archive:
                archive.writestr(name, bomb)
    with pytest.raises(ValueError, match="larger than"):
        read(tmp_path)


class Trap:
    """Unpickling it makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def write_trap(path, trap):
    """An npz whose member is a pickle, as np.savez writes objects, or a bare one."""
    np.savez(path, arrays=np.array([Trap(trap)], object))
    yield
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("arrays.npy", pickle.dumps(Trap(trap)))
    yield


@pytest.mark.parametrize("reader", ["record", "weights"])
def test_a_pickle_in_an_npz_is_refused(reader, tmp_path):
    path, trap = tmp_path / "arrays.npz", tmp_path / "trap"
    for _ in write_trap(path, trap):
        with pytest.raises(ValueError, match="pickle"):
            if reader == "record":
                record.read_arrays(tmp_path)
            else:
                weights.read_state(path)
        assert not trap.exists()


@pytest.mark.parametrize("reader", ["record", "weights"])
def test_a_damaged_npz_is_never_read_as_something_else(reader, tmp_path):
    path, rng = tmp_path / "arrays.npz", np.random.default_rng(0)
    wanted = {"a": np.arange(50.0), "b": np.ones((3, 4), np.float32)}
    np.savez_compressed(path, **wanted)
    for content in damaged(path.read_bytes(), rng):
        path.write_bytes(content)
        try:
            found = (
                record.read_arrays(tmp_path)
                if reader == "record"
                else weights.read_state(path)
            )
        except ValueError as error:
            assert path.name in str(error)
        else:
            for name, array in found.items():
                np.testing.assert_array_equal(array, wanted[name])


def test_a_damaged_cifar100_archive_is_refused(tmp_path):
    path, rng = tmp_path / "cifar-100-binary.tar.gz", np.random.default_rng(0)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name in ("train.bin", "test.bin", "fine_label_names.txt"):
            member = tarfile.TarInfo(f"cifar-100-binary/{name}")
            member.size = 3074
            tar.addfile(member, io.BytesIO(rng.bytes(3074)))
    for content in damaged(buffer.getvalue(), rng):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"CIFAR-100|leads out"):
            cifar100_files.read_archive(path)
