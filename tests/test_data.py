"""Data sources: what they return, and what they say about files that do not fit."""

import io
import pickle
import sys
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from fimtheory import data as data_module
from fimtheory.data import load_data
from fimtheory.errors import DataError

IMAGE = (3, 4, 5)


# ---- digits and random ------------------------------------------------------------------------------------------


def test_digits():
    data = load_data("digits", (1, 8, 8))
    images = load_digits().images
    assert data.inputs.shape == (len(images), 1, 8, 8)
    assert data.inputs.dtype == torch.float32
    np.testing.assert_array_equal(data.inputs[:, 0].numpy(), (images / 16).astype(np.float32))
    np.testing.assert_array_equal(data.labels.numpy(), load_digits().target)


def test_digits_split_into_training_and_test():
    whole, train, test = (load_data(f"digits{part}", (1, 8, 8)) for part in ("", ":train", ":test"))
    assert (len(train), len(test)) == (1437, 360)
    assert torch.equal(test.inputs, whole.inputs[::5])
    assert torch.equal(test.labels, whole.labels[::5])
    kept = torch.ones(len(whole), dtype=torch.bool)
    kept[::5] = False
    assert torch.equal(train.inputs, whole.inputs[kept])
    assert torch.equal(train.labels, whole.labels[kept])


def test_digits_in_other_shapes():
    flat = load_data("digits", (64,))
    assert torch.equal(flat.inputs, load_data("digits", (1, 8, 8)).inputs.flatten(1))
    large = load_data("digits", (3, 16, 12), n=5).inputs
    assert large.shape == (5, 3, 16, 12)
    assert torch.equal(large[:, 0], large[:, 2])
    assert large.min() >= 0
    assert large.max() <= 1
    means = [load_data("digits", (1, side, side), n=50).inputs.mean().item() for side in (8, 32)]
    assert means[0] == pytest.approx(means[1], rel=0.01)


def test_random():
    data = load_data("random:500", IMAGE, seed=3)
    assert data.inputs.shape == (500, *IMAGE)
    assert data.labels is None
    assert 0 <= data.inputs.min() < 0.01
    assert 0.99 < data.inputs.max() <= 1
    assert torch.equal(data.inputs, load_data("random:500", IMAGE, seed=3).inputs)
    assert not torch.equal(data.inputs, load_data("random:500", IMAGE, seed=4).inputs)


def test_draws_keep_inputs_with_their_labels():
    whole = load_data("digits", (1, 8, 8))
    some = load_data("digits", (1, 8, 8), n=100, seed=1)
    assert len(some) == 100
    assert some.description == "100 of digits"
    position = {image.numpy().tobytes(): label for image, label in zip(whole.inputs, whole.labels, strict=True)}
    assert all(position[x.numpy().tobytes()] == y for x, y in zip(some.inputs, some.labels, strict=True))
    assert len({x.numpy().tobytes() for x in some.inputs}) == 100
    assert torch.equal(some.inputs, load_data("digits", (1, 8, 8), n=100, seed=1).inputs)
    assert not torch.equal(some.inputs, load_data("digits", (1, 8, 8), n=100, seed=2).inputs)


@pytest.mark.parametrize("part", ["digits", "digits:test", "digits:train"])
@pytest.mark.parametrize("n", [None, 60])
def test_indices_are_places_in_the_whole_source(part, n):
    whole, some = load_data("digits", (1, 8, 8)), load_data(part, (1, 8, 8), n, 3)
    assert torch.equal(whole.inputs[some.indices], some.inputs)
    assert torch.equal(whole.labels[some.indices], some.labels)


def test_at_most_keeps_the_inputs_that_n_keeps():
    assert torch.equal(
        load_data("digits", (1, 8, 8), seed=7, at_most=100).inputs, load_data("digits", (1, 8, 8), 100, 7).inputs
    )
    assert len(load_data("random:5", (2,), at_most=100)) == 5


def test_a_description_says_what_was_made_of_the_images():
    assert load_data("digits", (64,), n=2).description == "2 of digits"
    assert load_data("digits", (3, 16, 16), n=2).description == "2 of digits, brought from 1x8x8 to 3x16x16"


# ---- files ------------------------------------------------------------------------------------------------------


def test_npz(tmp_path):
    rng = np.random.default_rng(0)
    inputs, labels = rng.normal(size=(7, *IMAGE)), rng.integers(0, 9, 7)
    np.savez(tmp_path / "two.npz", inputs=inputs, labels=labels, other=labels)
    np.savez_compressed(tmp_path / "one.npz", whatever=(inputs > 0).astype(np.uint8) * 255)
    two, one = (load_data(f"npz:{tmp_path / name}.npz", IMAGE) for name in ("two", "one"))
    np.testing.assert_array_equal(two.inputs.numpy(), inputs.astype(np.float32))
    assert two.labels.tolist() == labels.tolist()
    np.testing.assert_array_equal(one.inputs.numpy(), inputs > 0)
    assert one.labels is None
    some = load_data(f"npz:{tmp_path / 'two.npz'}", IMAGE, n=3)
    assert some.labels.shape == (3,)
    assert torch.equal(two.inputs[some.indices], some.inputs)


def write_png(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_image_folder_with_classes(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    for name, image in zip(("b/1.png", "a/2.png", "b/0.PNG"), pixels, strict=True):
        write_png(tmp_path / name, image)
    (tmp_path / "b" / "notes.txt").write_text("not an image")
    data = load_data(f"imagefolder:{tmp_path}", IMAGE)
    expected = pixels[[1, 2, 0]].transpose(0, 3, 1, 2) / np.float32(255)
    np.testing.assert_allclose(data.inputs.numpy(), expected, rtol=1e-6)
    assert data.labels.tolist() == [0, 1, 1]
    some = load_data(f"imagefolder:{tmp_path}", IMAGE, n=2)
    assert len(some) == 2
    assert torch.equal(data.inputs[some.indices], some.inputs)


def test_flat_image_folder_is_resized_and_has_no_labels(tmp_path):
    write_png(tmp_path / "gray.png", np.full((20, 10), 51, dtype=np.uint8))
    write_png(tmp_path / "transparent.png", np.full((3, 3, 4), 51, dtype=np.uint8))
    for shape in (IMAGE, (1, 7, 2)):
        data = load_data(f"imagefolder:{tmp_path}", shape)
        assert data.inputs.shape == (2, *shape)
        assert data.labels is None
        torch.testing.assert_close(data.inputs, torch.full_like(data.inputs, 0.2), rtol=0, atol=1e-6)


def write_cifar(path, count=4):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8), rng.integers(0, 10, count)
    path.write_bytes(b"".join(bytes([y]) + x.tobytes() for x, y in zip(images, labels, strict=True)))
    return images, labels


@pytest.mark.parametrize("folder", ["", "cifar-10-batches-bin"])
def test_cifar10(tmp_path, folder):
    images, labels = write_cifar(tmp_path / folder / "test_batch.bin")
    for path in (tmp_path, tmp_path / folder / "test_batch.bin"):
        data = load_data(f"cifar10:{path}", (3, 32, 32))
        np.testing.assert_allclose(data.inputs.numpy(), images / np.float32(255), rtol=1e-6)
        assert data.labels.tolist() == labels.tolist()
    gray = load_data(f"cifar10:{tmp_path}", (1, 32, 32), n=2)
    assert gray.inputs.shape == (2, 1, 32, 32)
    assert gray.labels.tolist() == labels[gray.indices].tolist()
    assert load_data(f"cifar10:{tmp_path}", (3072,)).inputs.shape == (4, 3072)


# ---- refusals ---------------------------------------------------------------------------------------------------

SPECS = [
    ("", "expected one of digits"),
    ("mnist", "data 'mnist': expected one of digits, .*cifar10:PATH"),
    ("npz:", "data 'npz:': expected one of"),
    ("digits:all", "expected digits, digits:train or digits:test"),
    ("random:0", "expected random:N with N from 1"),
    ("random:-3", "expected random:N"),
    ("random:9999999", "expected random:N"),
    ("npz:/nowhere/a.npz", "/nowhere/a.npz: cannot be read: No such file"),
    ("imagefolder:/nowhere", "/nowhere: not a folder of images"),
    ("cifar10:/nowhere", "/nowhere: not the binary version"),
    ("cifar10:/nowhere/data.bin", "/nowhere/data.bin: cannot be read: No such file"),
]


@pytest.mark.parametrize(("spec", "message"), SPECS)
def test_refused_specs(spec, message):
    with pytest.raises(DataError, match=message):
        load_data(spec, IMAGE)


@pytest.mark.parametrize("shape", [(), (0, 8, 8), (1.0, 8, 8)])
def test_refused_input_shapes(shape):
    with pytest.raises(DataError, match="expected positive whole numbers"):
        load_data("digits", shape)


@pytest.mark.parametrize("shape", [(2, 8, 8), (63,), (8, 8)])
def test_shapes_that_images_cannot_have(shape):
    with pytest.raises(DataError, match=r"images cannot be brought to shape .*; expected \(1 or 3, height, width\)"):
        load_data("digits", shape)


def test_refused_counts():
    with pytest.raises(DataError, match="0 inputs asked for"):
        load_data("digits", (1, 8, 8), n=0)
    with pytest.raises(DataError, match="2000 inputs asked for, but there are 1797"):
        load_data("digits", (1, 8, 8), n=2000)


class Payload:
    def __reduce__(self):
        return print, ("this must not run",)


ARRAYS = [
    ({"a": np.ones((2, *IMAGE)), "b": np.ones(2)}, r"arrays \['a', 'b'\]; expected one named 'inputs'"),
    ({"inputs": np.ones((2, 3, 4))}, r"inputs have shape \(2, 3, 4\); expected \(n, 3, 4, 5\)"),
    ({"inputs": np.array(["text"])}, "inputs are <U4; expected real numbers"),
    ({"inputs": np.ones((2, *IMAGE), dtype=complex)}, "inputs are complex128"),
    ({"inputs": np.full((2, *IMAGE), np.nan)}, "NaN or infinite"),
    ({"inputs": np.full((2, *IMAGE), -np.inf)}, "NaN or infinite"),
    ({"inputs": np.full((2, *IMAGE), 1e300)}, "too large for float32"),
    ({"inputs": np.ones((0, *IMAGE))}, "no inputs"),
    ({"inputs": np.ones((2, *IMAGE)), "labels": np.ones(3, dtype=int)}, "expected one whole number for each of 2"),
    ({"inputs": np.ones((2, *IMAGE)), "labels": np.ones(2)}, "labels are float64"),
    ({"inputs": np.array(Payload(), dtype=object)}, "something else than arrays of numbers"),
]


@pytest.mark.parametrize(("arrays", "message"), ARRAYS)
def test_refused_arrays(tmp_path, capsys, arrays, message):
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(DataError, match=f"data.npz: .*{message}"):
        load_data(f"npz:{tmp_path / 'data.npz'}", IMAGE)
    assert capsys.readouterr().out == ""


def test_refused_archives(tmp_path, monkeypatch):
    file = tmp_path / "data.npz"
    file.write_bytes(b"not a zip file")
    with pytest.raises(DataError, match=r"data\.npz: not an \.npz file"):
        load_data(f"npz:{file}", IMAGE)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("inputs.npy", b"\x93NUMPY\x01\x00v\x00{truncated")
    with pytest.raises(DataError, match=r"data\.npz: .*is damaged"):
        load_data(f"npz:{file}", IMAGE)
    np.savez_compressed(file, inputs=np.random.default_rng(0).normal(size=(9, *IMAGE)))
    damaged = bytearray(file.read_bytes())
    damaged[200:220] = bytes(20)
    file.write_bytes(damaged)
    with pytest.raises(DataError, match=r"data\.npz: "):
        load_data(f"npz:{file}", IMAGE)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inputs.npy", bytes(10**6))
    monkeypatch.setattr(data_module, "MAX_BYTES", 10**5)
    with pytest.raises(DataError, match="1000000 bytes unpacked; at most 100000"):
        load_data(f"npz:{file}", IMAGE)


def test_refused_images(tmp_path):
    with pytest.raises(DataError, match="no images"):
        load_data(f"imagefolder:{tmp_path}", IMAGE)
    with pytest.raises(DataError, match="images cannot be brought"):
        load_data(f"imagefolder:{tmp_path}", (64,))
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((50, 50), dtype=np.uint8)).save(buffer, "png")
    for content in (b"no image", b"", buffer.getvalue()[:-40]):
        (tmp_path / "bad.png").write_bytes(content)
        with pytest.raises(DataError, match=r"bad\.png: not an image that can be read"):
            load_data(f"imagefolder:{tmp_path}", IMAGE)


def test_image_folder_without_pillow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DataError, match=r"pip install 'fimtheory\[images\]'"):
        load_data(f"imagefolder:{tmp_path}", IMAGE)


def test_pickled_cifar10_is_refused(tmp_path, capsys):
    for name in ("test_batch", "data_batch_1"):
        (tmp_path / name).write_bytes(pickle.dumps(Payload()))
    for path in (tmp_path, tmp_path / "test_batch"):
        with pytest.raises(DataError, match=r"not the binary version .*pickled.* get cifar-10-binary\.tar\.gz"):
            load_data(f"cifar10:{path}", (3, 32, 32))
    assert capsys.readouterr().out == ""


def test_damaged_cifar10(tmp_path):
    file = tmp_path / "test_batch.bin"
    write_cifar(file)
    whole = file.read_bytes()
    for content in (whole[:-1], b""):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"bytes; expected a positive multiple of 3073"):
            load_data(f"cifar10:{tmp_path}", (3, 32, 32))
    file.write_bytes(b"\x0a" + whole[1:])
    with pytest.raises(DataError, match="label 10; expected 0 to 9"):
        load_data(f"cifar10:{tmp_path}", (3, 32, 32))
