"""Folders of class folders of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from strata.data import DataConfig, Dataset, images, open_data, pictures, recognize
from strata.data.loader import Loader
from strata.errors import ConfigError, DataError

COLOURS = {"blue": (20, 40, 220), "green": (30, 200, 60), "red": (230, 30, 20)}


def write(path: Path, size: tuple[int, int] = (40, 40), colour: object = (200, 30, 30), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)  # type: ignore[arg-type]
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes of ten pictures in several formats."""
    root = tmp_path / "photos"
    for name, colour in COLOURS.items():
        for k in range(10):
            extension = ("jpg", "png", "bmp", "webp", "jpeg")[k % 5]
            write(root / name / f"{k}.{extension}", colour=colour)
    return root


def read(folder: Path, **settings: object) -> Dataset:
    return open_data(DataConfig(source=str(folder), **settings))  # type: ignore[arg-type]


def test_class_folders_become_labels_and_stratified_splits(folder: Path) -> None:
    data = read(folder)
    assert data.labels == ("blue", "green", "red")
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 22, "validation": 4, "test": 4}
    assert data.sizes == {"in_channels": 3, "image_size": 40, "in_features": 4800, "num_classes": 3}
    assert any("no test split given: held out 13.3 % (4 samples), stratified, split_seed=0" in n for n in data.notes)


def test_a_picture_keeps_its_class(folder: Path) -> None:
    data = read(folder)
    index = torch.arange(len(data.splits["train"]))
    batch = data.splits["train"].gather(index, torch.zeros_like(index))
    means = batch["input"].float().mean((2, 3))
    wanted = torch.tensor([COLOURS[data.labels[k]] for k in batch["target"].tolist()], dtype=torch.float32)
    assert (means - wanted).abs().max() < 12  # JPEG and WebP lose a little


def test_given_splits_are_used(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "given"
    for part, count in (("train", 6), ("val", 2), ("test", 3)):
        for name, colour in COLOURS.items():
            for k in range(count):
                write(root / part / name / f"{k}.png", colour=colour)
    data = read(root)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 18, "validation": 6, "test": 9}
    assert not any("held out" in note for note in data.notes)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for name in ("car", "train"):
        for k in range(3):
            write(tmp_path / "vehicles" / name / f"{k}.png")
    assert read(tmp_path / "vehicles").labels == ("car", "train")


def test_folders_of_held_out_pictures_alone_are_no_classes(folder: Path, tmp_path: Path) -> None:
    for part in ("val", "test"):
        for name in COLOURS:
            write(tmp_path / "held" / part / name / "0.png", colour=COLOURS[name])
    with pytest.raises(DataError, match="has folders by the names of test and validation, and none called train"):
        read(tmp_path / "held")
    assert len(read(folder, test=str(tmp_path / "held")).splits["test"]) == 3


def test_test_pictures_without_classes_can_be_left_aside(folder: Path, tmp_path: Path) -> None:
    folder.rename(tmp_path / "train")
    write(tmp_path / "test" / "0.png")
    with pytest.raises(DataError, match=r"test pictures do not lie in class folders, .* do so. data.test=0.1 leaves"):
        read(tmp_path)
    assert len(read(tmp_path, test=0.1).splits["test"]) == 3


def test_a_class_has_one_name_however_its_accents_are_written(tmp_path: Path) -> None:
    for part, names in (("train", ("caf\u00e9", "bar")), ("test", ("cafe\u0301", "bar"))):
        for name in names:
            for k in range(2):
                write(tmp_path / part / name / f"{k}.jfif")
    assert read(tmp_path, validation=0).labels == ("bar", "caf\u00e9")


@pytest.mark.parametrize(("size", "is_told"), [((60, 2), True), ((1, 500), True), ((40, 30), False), ((40, 20), False)])
def test_pictures_of_which_most_is_cut_away_are_told_of(size: tuple[int, int], is_told: bool, tmp_path: Path) -> None:
    for k in range(4):
        write(tmp_path / "a" / f"{k}.png", size=size)
        write(tmp_path / "b" / f"{k}.png", size=size)
    assert any("is cut away" in note and "data.fit=stretch" in note for note in read(tmp_path).notes) == is_told
    assert not any("is cut away" in note for note in read(tmp_path, fit="stretch").notes)


def test_a_test_folder_elsewhere_is_read_like_the_training_data(folder: Path, tmp_path: Path) -> None:
    for name in COLOURS:
        write(tmp_path / "more" / name / "0.png", size=(90, 60), colour=COLOURS[name])
    data = read(folder, test=str(tmp_path / "more"), validation=0)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 30, "test": 3}
    batch = data.splits["test"].gather(torch.arange(3), torch.zeros(3, dtype=torch.int64))
    assert batch["input"].shape == (3, 3, 40, 40)
    assert batch["target"].tolist() == [0, 1, 2]


def test_a_class_unknown_to_training_is_refused(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "more" / "violet" / "0.png")
    with pytest.raises(DataError, match="test split has class 'violet', which no training picture has"):
        read(folder, test=str(tmp_path / "more"))


def test_a_corrupt_picture_is_skipped_and_named(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    for name, colour in COLOURS.items():
        for k in range(50):
            write(root / name / f"{k}.png", size=(8, 8), colour=colour)
    (root / "red" / "7.png").write_bytes(b"this is no picture")
    data = read(root)
    assert sum(len(split) for split in data.splits.values()) == 149
    assert any("skipped 1 of 150 pictures" in note and "red/7.png (not a picture" in note for note in data.notes)


def test_a_truncated_picture_is_skipped_and_named(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    for name in COLOURS:
        for k in range(50):
            noise = np.random.default_rng(k).integers(0, 256, (24, 24, 3), dtype=np.uint8)
            (root / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise).save(root / name / f"{k}.jpg")
    broken = root / "green" / "3.jpg"
    broken.write_bytes(broken.read_bytes()[:-200])
    data = read(root)
    assert sum(len(split) for split in data.splits.values()) == 149
    assert any("green/3.jpg (image file is truncated" in note for note in data.notes)


def test_more_than_one_percent_bad_stops(folder: Path) -> None:
    (folder / "red" / "1.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"1 of 30 pictures in .* cannot be read, more than 1 %: red/1.png \(not a pic"):
        read(folder)


def test_a_decompression_bomb_is_a_bad_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        for k in range(60):
            write(tmp_path / "p" / name / f"{k}.png", size=(8, 8))
    write(tmp_path / "p" / "a" / "bomb.png", size=(80, 80))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    data = read(tmp_path / "p")
    assert any("a/bomb.png" in note and "decompression bomb" in note for note in data.notes)
    assert sum(len(split) for split in data.splits.values()) == 120


def test_a_class_with_one_picture_is_refused_by_name(folder: Path) -> None:
    write(folder / "lonely" / "0.png")
    with pytest.raises(DataError, match=r"Class with fewer than two pictures in .*: 'lonely' \(1\)"):
        read(folder)


def test_one_class_only_is_refused(tmp_path: Path) -> None:
    for k in range(4):
        write(tmp_path / "p" / "cat" / f"{k}.png")
    with pytest.raises(DataError, match="only one class folder, 'cat'"):
        read(tmp_path / "p")


def test_an_empty_class_folder_is_refused_by_name(folder: Path) -> None:
    (folder / "nothing").mkdir()
    with pytest.raises(DataError, match=r"Class folder 'nothing' in .* holds no pictures. Add some"):
        read(folder)
    (folder / "nothing" / "a.heic").write_bytes(b"0")
    with pytest.raises(
        DataError, match=r"'nothing' in .* holds no pictures, but 1 .heic. Convert those to PNG or JPEG"
    ):
        read(folder)


def test_files_that_are_no_pictures_are_ignored_and_counted(folder: Path) -> None:
    (folder / "notes.txt").write_text("hello")
    (folder / "red" / "labels.xml").write_text("<a/>")
    (folder / "red" / ".hidden").write_text("")
    assert any("ignored what is no picture: 1 .txt, 1 .xml" in note for note in read(folder).notes)


def test_pictures_without_class_folders_have_no_target(tmp_path: Path) -> None:
    for k in range(10):
        write(tmp_path / "faces" / f"{k}.png")
    data = read(tmp_path / "faces")
    assert data.target_kind is None and "num_classes" not in data.sizes
    assert set(data.splits["train"].gather(torch.tensor([0]), torch.tensor([0]))) == {"input"}


def test_the_short_side_is_resized_and_the_middle_cut_out(tmp_path: Path) -> None:
    wide = np.zeros((64, 192, 3), dtype=np.uint8)
    wide[:, 64:128] = 255  # the middle third is white
    Image.fromarray(wide).save(tmp_path / "wide.png")
    pixels = pictures.read_picture(tmp_path / "wide.png", 16, 3)
    assert pixels.shape == (3, 16, 16)
    assert pixels[:, :, 1:-1].min() == 255


def test_exif_rotation_is_undone(tmp_path: Path) -> None:
    upright = np.zeros((40, 40, 3), dtype=np.uint8)
    upright[:20] = (255, 0, 0)  # red above
    turned = Image.fromarray(np.rot90(upright).copy())  # stored a quarter to the left: turn it right to see it
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "phone.png", exif=exif)
    assert np.array_equal(pictures.read_picture(tmp_path / "phone.png", 40, 3).transpose(1, 2, 0), upright)


@pytest.mark.parametrize("extension", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_undone_once_in_every_format(orientation: int, extension: str, tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / f"a.{extension}"
    Image.fromarray(stored).save(file, exif=exif, **({"lossless": True} if extension == "webp" else {}))
    with Image.open(file) as image:
        upright = np.asarray(ImageOps.exif_transpose(image).convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(pictures.read_whole(file, 3), upright)
    middle = upright[:, :, 2:8] if orientation < 5 else upright[:, 2:8]
    assert np.array_equal(pictures.read_picture(file, 6, 3), middle)
    header = pictures.read_header(file)
    assert (header.height, header.width) == upright.shape[1:] and header.is_turned == (orientation > 4)


def test_transparent_pixels_are_white(tmp_path: Path) -> None:
    write(tmp_path / "a.png", colour=(0, 0, 0, 0), mode="RGBA")
    assert pictures.read_picture(tmp_path / "a.png", 40, 3).min() == 255


def test_a_palette_is_looked_up(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (10, 200, 30)).convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "p.png")
    assert pictures.read_picture(tmp_path / "p.png", 8, 3)[:, 0, 0].tolist() == [10, 200, 30]


def test_sixteen_bit_grey_keeps_its_range(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 65535], [257 * 100, 257 * 7]], dtype=np.uint16)).save(tmp_path / "deep.png")
    assert pictures.read_picture(tmp_path / "deep.png", 2, 1)[0].tolist() == [[0, 255], [100, 7]]
    assert pictures.read_header(tmp_path / "deep.png").is_grey


@pytest.mark.parametrize(("highest", "white"), [(255, 255), (65535, 65535)])
def test_32_bits_that_hold_what_8_or_16_could_are_read_as_those(highest: int, white: int, tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, highest], [white // 5, 1]], dtype=np.int32)).save(tmp_path / "deep.tif")
    assert pictures.read_picture(tmp_path / "deep.tif", 2, 1)[0, 0].tolist() == [0, 255]
    assert pictures.read_picture(tmp_path / "deep.tif", 2, 1)[0, 1, 0] == 51


def test_32_bits_that_hold_more_are_no_picture(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 70000]], dtype=np.int32)).save(tmp_path / "deep.tif")
    with pytest.raises(pictures.BadPicture, match="levels from 0 to 70000 have no agreed range"):
        pictures.read_whole(tmp_path / "deep.tif", 1)


@pytest.mark.parametrize(("highest", "is_dim"), [(4095, True), (60000, False)])
def test_deep_pictures_that_are_nearly_black_are_told_of(highest: int, is_dim: bool, tmp_path: Path) -> None:
    for name in ("a", "b"):
        for k in range(3):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(np.full((8, 8), highest, dtype=np.uint16)).save(tmp_path / name / f"{k}.png")
    told = [note for note in read(tmp_path, test=0).notes if "nearly black" in note]
    assert len(told) == is_dim
    assert not is_dim or "highest level is 4095. Multiply all their pixels by one factor, such as 16" in told[0]


def test_pictures_that_are_all_grey_have_one_channel(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for k in range(3):
            write(tmp_path / "p" / name / f"{k}.png", mode="L", colour=9 * k)
    assert read(tmp_path / "p").sizes["in_channels"] == 1
    write(tmp_path / "p" / "a" / "colour.png")
    assert read(tmp_path / "p").sizes["in_channels"] == 3


@pytest.mark.parametrize(
    ("sizes", "side"),
    [
        ([(28, 28)] * 3, 28),
        ([(50, 40)] * 3, 40),
        ([(256, 256)] * 3, 256),
        ([(300, 200), (400, 130), (200, 500)], 192),
        ([(3000, 2000)] * 3, 224),
        ([(20, 30), (31, 22)], 32),
    ],
)
def test_the_side_is_decided_from_the_sizes(sizes: list[tuple[int, int]], side: int) -> None:
    assert images.decide_side(sizes)[0] == side


def test_pictures_that_do_not_fit_are_decoded_for_each_batch_to_the_same_pixels(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory = read(folder)
    monkeypatch.setattr(images, "available_memory_bytes", lambda: 1)
    on_disk = read(folder)
    index, epoch = torch.tensor([3, 0, 21]), torch.zeros(3, dtype=torch.int64)
    ours, theirs = in_memory.splits["train"].gather(index, epoch), on_disk.splits["train"].gather(index, epoch)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert getattr(on_disk.splits["train"], "in_memory") is False  # noqa: B009
    assert "pictures do not fit in memory and are decoded for each batch" in on_disk.notes


def test_a_picture_that_turns_bad_while_training_is_stood_in_for(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{k}.png", size=(8, 8), colour=(k, k, k)) for k in range(200)]
    split = images.FileSplit(files, torch.tensor([k % 2 for k in range(200)]), 8, 3)
    files[10].write_bytes(b"gone")
    batch = split.gather(torch.tensor([9, 10]), torch.zeros(2, dtype=torch.int64))
    assert batch["target"].tolist() == [1, 0]
    assert batch["input"][:, 0, 0, 0].tolist() == [9, 12]  # the next of its class
    for k in (20, 30):
        files[k].write_bytes(b"gone")
    with pytest.raises(DataError, match="3 of 200 pictures in the data cannot be read"):
        split.gather(torch.tensor([20, 30]), torch.zeros(2, dtype=torch.int64))


def test_bad_pictures_are_a_share_of_all_the_data_and_a_test_split_stops_no_run(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{k}.png", size=(8, 8), colour=(k, k, k)) for k in range(40)]
    damage, numbers = images.Damage(400), torch.arange(40)
    split = images.FileSplit(files, None, 8, 3, damage=damage)
    for k in range(4):
        files[k].write_bytes(b"gone")
    split.gather(numbers, torch.zeros_like(numbers))  # a tenth of the split, and one percent of the data
    files[4].write_bytes(b"gone")
    with pytest.raises(DataError, match="5 of 400 pictures in the data cannot be read"):
        split.gather(numbers, torch.zeros_like(numbers))
    images.FileSplit(files, None, 8, 3, damage=images.Damage(40), refuses=False).gather(
        numbers, torch.zeros_like(numbers)
    )


def test_of_pictures_decoded_later_the_fingerprint_says_which_are_in_which_split(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "PIXELS_AT_ONCE", 1)
    first = read(folder, split_seed=0)
    assert isinstance(first.splits["train"], images.FileSplit)
    assert read(folder, split_seed=0).fingerprint == first.fingerprint
    assert read(folder, split_seed=1).fingerprint != first.fingerprint


def test_limit_keeps_the_shares_of_classes(folder: Path) -> None:
    assert read(folder, limit=9).class_counts == (3, 3, 3)


def test_two_readings_agree_and_a_changed_picture_is_noticed(folder: Path) -> None:
    first = read(folder).fingerprint
    assert read(folder).fingerprint == first
    write(folder / "red" / "1.png", colour=(0, 0, 0))
    assert read(folder).fingerprint != first


def test_a_folder_of_annotated_pictures_is_recognized_as_pictures(folder: Path) -> None:
    for k in range(40):
        (folder / "red" / f"{k}.xml").write_text("<a/>")
    assert recognize(folder) == "image"


def test_a_folder_without_pictures_beside_given_splits_does_not_matter(folder: Path, tmp_path: Path) -> None:
    folder.rename(tmp_path / "train")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "a.xml").write_text("<a/>")
    assert read(tmp_path).labels == ("blue", "green", "red")


def test_links_that_lead_back_are_not_followed(folder: Path) -> None:
    expected = [len(split) for split in read(folder).splits.values()]
    (folder / "red" / "all").symlink_to("..")
    (folder / "red" / "itself").symlink_to("itself")
    (folder / "red" / "blue").symlink_to("../blue/red")
    (folder / "blue" / "red").symlink_to("../red")
    assert recognize(folder) == "image"
    assert len(images.pictures_in(folder / "red")) == 10
    (folder / "blue" / "red").unlink()
    assert [len(split) for split in read(folder).splits.values()] == expected


def test_class_folders_are_no_numbers_to_predict(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"data.target_kind=number does not fit class folders"):
        read(folder, target_kind="number")


def read_all(data: Any, epochs: int = 1) -> torch.Tensor:
    index = torch.arange(len(data.splits["train"]))
    for epoch in range(epochs):
        found = data.splits["train"].gather(index, torch.full_like(index, epoch))["input"]
    return found


@pytest.fixture
def at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the folder read whole, and from now on take any folder for a large one."""
    data = open_data(DataConfig(source=str(folder)))
    monkeypatch.setattr(images, "PICTURES_AT_ONCE", 3)
    return data


def test_a_large_folder_is_looked_at_in_parts_and_gives_the_same_pixels(
    folder: Path, at_once: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "HEADERS_OF_MANY", 10)
    read: list[Path] = []
    headers = pictures.read_headers
    monkeypatch.setattr(pictures, "read_headers", lambda files: read.extend(files) or headers(files))
    data = open_data(DataConfig(source=str(folder)))
    assert 0 < len(read) <= 20
    assert any("pictures were looked at, evenly spread" in note for note in data.notes)
    assert torch.equal(read_all(data), read_all(at_once))
    assert data.class_counts == at_once.class_counts


def test_pictures_that_fit_are_decoded_once_and_then_kept(
    folder: Path, at_once: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = open_data(DataConfig(source=str(folder)))
    first = read_all(data)
    monkeypatch.setattr(pictures, "read_pictures", None)
    assert torch.equal(read_all(data), first) and torch.equal(first, read_all(at_once))


def test_few_but_vast_pictures_do_not_keep_training_waiting(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "PIXELS_AT_ONCE", 1000)
    data = open_data(DataConfig(source=str(folder)))
    assert isinstance(data.splits["train"], images.FileSplit) and data.splits["train"].keeps
    assert "pictures are decoded when they are first wanted, and then kept in memory" in data.notes


def test_memory_does_not_grow_over_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    statm = Path("/proc/self/statm")
    if not statm.is_file():
        pytest.skip("this system does not say how much memory a process has")
    for k in range(128):
        file = tmp_path / "many" / f"{k % 2}" / f"{k}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (128, 128), (k, 0, 0)).save(file)
    monkeypatch.setattr(images, "MEMORY_SHARE", 0.0)
    data = open_data(DataConfig(source=str(tmp_path / "many"), validation=0.0, test=0.0))
    batches = Loader(
        data.splits["train"], batch_size=32, seed=0, stream="train", device=torch.device("cpu"),
        prepare=lambda batch, step: batch, prefetch=True,
    )  # fmt: skip
    held = []
    for number in range(32):  # epochs of 6 MB
        batches.batch(number, number)
        held.append(int(statm.read_text().split()[1]) * 4096 / 1e6)
    batches.close()
    assert held[-1] - held[8] < 12  # six epochs that were kept would be 36
