import gzip
import hashlib
import io
import struct
import sys
import tarfile
import zlib
from typing import Any

import numpy as np
import pytest

from lagrange_jax.datasets import cifar100_files, load_cifar100, tfds
from lagrange_jax.datasets.cifar100_files import ARCHIVE, read_archive

FINE = tuple(f"class_{i:02}" for i in range(100))
COARSE = tuple(f"superclass_{i}" for i in reversed(range(20)))
COUNTS = {"train": 1203, "test": 7}  # two full blocks and a part; less than a block


def make_rows(count, seed):
    """Records as the archive has them: coarse label, fine label, planes R, G, B."""
    random = np.random.default_rng(seed)
    rows = random.integers(0, 256, (count, 3074), dtype=np.uint8)
    rows[:, 1] = random.integers(0, 100, count)
    rows[:, 0] = rows[:, 1] // 5
    return rows


ROWS = {name: make_rows(count, seed=count) for name, count in COUNTS.items()}


def make_members(rows=ROWS):
    return {
        "train.bin": rows["train"].tobytes(),
        "test.bin": rows["test"].tobytes(),
        "fine_label_names.txt": ("\n".join(FINE) + "\n").encode(),
        "coarse_label_names.txt": ("\n".join(COARSE) + "\n\n").encode(),
    }


def make_tar(members):
    """Returns a tar file; a member is its bytes or a `TarInfo`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members.items():
            info = data
            if isinstance(data, bytes):
                info = tarfile.TarInfo(f"cifar-100-binary/{name}")
                info.size = len(data)
                data = io.BytesIO(data)
            tar.addfile(info, data if isinstance(data, io.BytesIO) else None)
    return buffer.getvalue()


def write_archive(folder, members=None):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ARCHIVE
    path.write_bytes(gzip.compress(make_tar(members or make_members()), 1))
    return path


def expected_images(rows):
    """Pixel by pixel, as the format says; an independent reading."""
    images = np.empty((len(rows), 32, 32, 3), np.uint8)
    for row in range(32):
        for column in range(32):
            for channel in range(3):
                byte = 2 + channel * 1024 + row * 32 + column
                images[:, row, column, channel] = rows[:, byte]
    return images


def check_splits(splits, rows=ROWS):
    for name in ("train", "test"):
        data = getattr(splits, name)
        assert data.inputs.dtype == np.uint8 and data.targets.dtype == np.int32
        np.testing.assert_array_equal(data.inputs, expected_images(rows[name]))
        np.testing.assert_array_equal(data.targets, rows[name][:, 1])
        np.testing.assert_array_equal(splits.coarse_labels[name], rows[name][:, 0])
        assert data.groups is None
    assert splits.label_names == FINE
    assert splits.coarse_label_names == COARSE


@pytest.fixture(autouse=True)
def no_variable_and_no_download(monkeypatch):
    import tensorflow_datasets

    monkeypatch.delenv("LAGRANGE_JAX_DATA", raising=False)

    def refuse(*_):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(
        tensorflow_datasets.download.DownloadManager, "download", refuse
    )


@pytest.mark.parametrize("inner", ["", "cifar100"])
@pytest.mark.parametrize("by", ["argument", "variable"])
def test_a_placed_archive_is_prepared_once(inner, by, tmp_path, monkeypatch):
    path = write_archive(tmp_path / "files" / inner)
    named = {"manual_dir": tmp_path / "files"}
    if by == "variable":
        monkeypatch.setenv("LAGRANGE_JAX_DATA", str(named.pop("manual_dir")))
    first = load_cifar100(**named, data_dir=tmp_path / "c")
    check_splits(first)
    assert first.archive_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert "tensorflow" not in sys.modules
    path.unlink()
    monkeypatch.delenv("LAGRANGE_JAX_DATA", raising=False)
    second = load_cifar100(data_dir=tmp_path / "c")
    check_splits(second)
    assert second.archive_sha256 == first.archive_sha256


def test_what_tfds_downloads_is_read(tmp_path, monkeypatch):
    import tensorflow_datasets

    path, asked = write_archive(tmp_path / "cache"), []
    monkeypatch.setattr(
        tensorflow_datasets.download.DownloadManager,
        "download",
        lambda _, url: asked.append(url) or path,
    )
    check_splits(load_cifar100(data_dir=tmp_path / "c"))
    assert asked == ["https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz"]


def test_the_official_checksum_is_the_one_that_tfds_knows():
    from tensorflow_datasets.core.download import checksums

    info = checksums.get_all_url_infos()[cifar100_files.URL]
    assert info.checksum == cifar100_files.OFFICIAL_SHA256


def test_missing_data_say_what_to_fetch(tmp_path, monkeypatch):
    (tmp_path / "cifar100").mkdir()
    monkeypatch.setenv("LAGRANGE_JAX_DATA", str(tmp_path))
    wanted = r"(?s){}.*cifar-100-binary.tar.gz.*https://.*LAGRANGE_JAX_DATA"
    with pytest.raises(FileNotFoundError, match=wanted.format("no route to host")):
        load_cifar100(data_dir=tmp_path / "c")
    with pytest.raises(FileNotFoundError, match=wanted.format("is not in")):
        load_cifar100(manual_dir=tmp_path, data_dir=tmp_path / "c")
    write_archive(tmp_path)
    check_splits(load_cifar100(data_dir=tmp_path / "c"))


@pytest.mark.parametrize("missing", ["tensorflow_datasets", "importlib_resources"])
def test_a_missing_extra_is_named(missing, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    wanted = rf"{missing}: pip install lagrange-jax\[data\]"
    with pytest.raises(ModuleNotFoundError, match=wanted):
        load_cifar100(data_dir=tmp_path)


def test_parquet_serves_where_array_record_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds, "_file_format", lambda: "parquet")
    write_archive(tmp_path)
    check_splits(load_cifar100(manual_dir=tmp_path, data_dir=tmp_path / "c"))
    assert list(tmp_path.glob("c/cifar100/blocks/1.0.0/*.parquet*"))


def test_the_environment_names_the_folder_after_tfds_was_imported(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "c"))
    write_archive(tmp_path)
    check_splits(load_cifar100(manual_dir=tmp_path))
    assert (tmp_path / "c" / "cifar100").is_dir()


def test_one_image_is_enough(tmp_path):
    rows = {name: some[:1] for name, some in ROWS.items()}
    archive = read_archive(write_archive(tmp_path, make_members(rows)))
    np.testing.assert_array_equal(archive.test.images, expected_images(rows["test"]))
    assert len(archive.train.labels) == 1


# Damage, each with what the message has to name.


def cut_record(members):
    members["train.bin"] = members["train.bin"][:-1]


def no_record(members):
    members["test.bin"] = b""


def flipped_class(members):
    rows = ROWS["train"].copy()
    rows[17, 1] ^= 64
    members["train.bin"] = rows.tobytes()


def class_out_of_range(members):
    rows = ROWS["test"].copy()
    rows[4, 1] = 100
    members["test.bin"] = rows.tobytes()


def superclass_out_of_range(members):
    rows = ROWS["test"].copy()
    rows[2, 0] = 20
    members["test.bin"] = rows.tobytes()


def flipped_superclass(members):
    rows = ROWS["train"].copy()
    rows[40, 0] ^= 1
    members["train.bin"] = rows.tobytes()


def missing_name(members):
    members["fine_label_names.txt"] = "\n".join(FINE[:99]).encode()


def repeated_name(members):
    members["coarse_label_names.txt"] = "\n".join((*COARSE[:19], COARSE[0])).encode()


def swapped_names(members):
    text = "\n".join((FINE[1], FINE[0], *FINE[2:]))
    members["fine_label_names.txt"] = text.encode()


def missing_member(members):
    del members["test.bin"]


def as_link(members):
    link = tarfile.TarInfo("cifar-100-binary/test.bin")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    members["test.bin"] = link


def twice(members):
    members["again"] = tarfile.TarInfo("cifar-100-binary/test.bin")


def absurd_size(members):
    members["fine_label_names.txt"] += b"\n" * 2**16


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (cut_record, r"train.bin: \d+ bytes are no whole number of 3074-byte images"),
        (no_record, r"test.bin: 0 bytes"),
        (flipped_class, r"train.bin: image 17 has class"),
        (class_out_of_range, r"test.bin: image 4 has class 100"),
        (superclass_out_of_range, r"test.bin: image 2 has .* superclass 20"),
        (flipped_superclass, r"train.bin: image 40 has class .* elsewhere"),
        (missing_name, r"fine_label_names.txt: expected 100 .*found 99"),
        (repeated_name, r"coarse_label_names.txt: expected 20 .*found 19"),
        (swapped_names, r"fine_label_names.txt: .* not in alphabetical order"),
        (missing_member, r"does not hold cifar-100-binary/test.bin"),
        (as_link, r"test.bin: it is no plain file"),
        (twice, r"test.bin: it is there twice"),
        (absurd_size, r"fine_label_names.txt: \d+ bytes, expected at most 65536"),
    ],
)
def test_altered_archives_are_refused_with_file_and_reason(alter, message, tmp_path):
    members = make_members()
    alter(members)
    path = write_archive(tmp_path, members)
    with pytest.raises(ValueError, match=message) as error:
        read_archive(path)
    assert ARCHIVE in str(error.value)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.99])
def test_a_truncated_archive_or_a_flipped_bit_is_refused(place, tmp_path):
    path = write_archive(tmp_path)
    good = path.read_bytes()
    path.write_bytes(good[: int(place * len(good))])
    with pytest.raises(ValueError, match="cannot be unpacked"):
        read_archive(path)
    bad = bytearray(good)
    bad[int(place * len(good))] ^= 8  # a pixel: only the checksum of gzip tells
    path.write_bytes(bad)
    with pytest.raises(ValueError, match="cannot be unpacked"):
        read_archive(path)


def test_what_is_no_tar_file_is_refused(tmp_path):
    path = tmp_path / ARCHIVE
    for data in (b"no tar" * 1000, make_tar(make_members())[:-3_000_000]):
        path.write_bytes(gzip.compress(data, 1))
        with pytest.raises(ValueError, match=r"cannot be read as a tar|does not hold"):
            read_archive(path)


@pytest.mark.parametrize("name", ["../train.bin", "/train.bin", "a\\..\\..\\b"])
def test_an_archive_that_leads_outside_is_refused(name, tmp_path):
    path = write_archive(tmp_path, {**make_members(), "x": tarfile.TarInfo(name)})
    with pytest.raises(ValueError, match="leads out of the archive"):
        read_archive(path)


def test_absurd_sizes_are_not_read(tmp_path, monkeypatch):
    path = write_archive(tmp_path)
    monkeypatch.setattr(cifar100_files, "_MAX_BYTES", 100)
    with pytest.raises(ValueError, match="more than 100 bytes"):
        read_archive(path)


def test_a_refused_archive_leaves_nothing_prepared(tmp_path):
    members = make_members()
    cut_record(members)
    write_archive(tmp_path, members)
    options = {"manual_dir": tmp_path, "data_dir": tmp_path / "c"}
    with pytest.raises(ValueError, match=r"train.bin"):
        load_cifar100(**options)
    write_archive(tmp_path)
    check_splits(load_cifar100(**options))


# What TFDS's own builder prepares: single images, as PNG, in any record format.


def to_png(image):
    def chunk(kind, data):
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    lines = b"".join(b"\0" + row.tobytes() for row in image)
    header = struct.pack(">IIBBBBB", 32, 32, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.fixture(scope="module")
def own_builder() -> Any:
    import tensorflow_datasets as tf_datasets

    # As TFDS 4.9's builder has it, without the TensorFlow that that one needs.
    class Cifar100(tf_datasets.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tf_datasets.core.Version("3.0.2")

        def _info(self):
            kinds = tf_datasets.features
            features = {
                "id": kinds.Text(),
                "image": kinds.Image(shape=(32, 32, 3)),
                "label": kinds.ClassLabel(names=FINE),
                "coarse_label": kinds.ClassLabel(names=COARSE),
            }
            return tf_datasets.core.DatasetInfo(
                builder=self, features=kinds.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {name: self._generate_examples(name) for name in ROWS}

        def _generate_examples(self, name):
            images = expected_images(ROWS[name][:30])
            for i, (row, image) in enumerate(zip(ROWS[name], images, strict=False)):
                yield (
                    i,
                    {
                        "id": f"{name}_{i:05d}",
                        "image": to_png(image),
                        "label": int(row[1]),
                        "coarse_label": int(row[0]),
                    },
                )

    return Cifar100


def _write_tfrecords(folder):
    """TFDS writes its default format with TensorFlow only."""
    import tensorflow_datasets as tf_datasets

    builder: Any = tf_datasets.builder_from_directory(str(folder))
    for name, split in builder.info.splits.items():
        source = builder.as_data_source(name).data_source
        path = folder / f"cifar100-{name}.tfrecord-00000-of-00001"
        with path.open("wb") as file:
            for record in source.__getitems__(range(split.num_examples)):
                file.write(struct.pack("<QI", len(record), 0) + record + bytes(4))
    for path in folder.glob("*.array_record*"):
        path.unlink()
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_what_tfds_has_prepared_is_read_as_it_is(file_format, own_builder, tmp_path):
    own_builder(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    folder = tmp_path / "cifar100" / "3.0.2"
    if file_format == "tfrecord":
        _write_tfrecords(folder)
    splits = load_cifar100(data_dir=tmp_path)
    check_splits(splits, {name: rows[:30] for name, rows in ROWS.items()})
    assert splits.archive_sha256 is None
    if file_format == "tfrecord":
        (path, *_) = folder.glob("*train.tfrecord*")
        path.write_bytes(path.read_bytes()[:-9])
        with pytest.raises(ValueError, match=r"train.tfrecord.* is cut short"):
            load_cifar100(data_dir=tmp_path)
    # An archive that the user names goes first.
    write_archive(tmp_path)
    check_splits(load_cifar100(manual_dir=tmp_path, data_dir=tmp_path))
