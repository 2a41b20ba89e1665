"""Which images a folder gives: links, names that begin with a dot, images beside the classes, and the order."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner
from PIL import Image

from edm_unified import cli
from edm_unified.data import ImageFolder, folders
from edm_unified.data.survey import survey


def paint(path: Path, size: tuple[int, int], shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, shade).save(path)


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    for i in range(2):
        paint(tmp_path / "store" / "two" / f"{i}.png", (4, 4), 90 + i)
        paint(tmp_path / "some" / "x" / f"{i}.png", (4, 4), i)
    (tmp_path / "some" / "y").symlink_to(tmp_path / "store" / "two", target_is_directory=True)
    data = ImageFolder(str(tmp_path / "some"), channels=1).load()
    assert data.labels is not None
    assert data.labels.tolist() == [0, 0, 1, 1]
    assert data.class_names == ("x", "y")
    assert ((data.images[:, 0, 0, 0] + 1) * 127.5).round().tolist() == [0, 1, 90, 91]
    (tmp_path / "all").mkdir()
    for name in ("a", "b"):  # the same folder twice is two classes
        (tmp_path / "all" / name).symlink_to(tmp_path / "store" / "two", target_is_directory=True)
    both = ImageFolder(str(tmp_path / "all"), channels=1).load()
    assert both.labels is not None
    assert both.labels.tolist() == [0, 0, 1, 1]
    (tmp_path / "link").symlink_to(tmp_path / "some", target_is_directory=True)
    assert len(ImageFolder(str(tmp_path / "link")).load()) == 4


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    paint(tmp_path / "top" / "x" / "a.png", (4, 4), 0)
    paint(tmp_path / "top" / "y" / "b.png", (4, 4), 255)
    for name, target in (("up", "."), ("out", ".."), ("self", "x/self"), ("none", "gone")):
        (tmp_path / "top" / "x" / name).symlink_to(tmp_path / "top" / target, target_is_directory=True)
    (tmp_path / "top" / "x" / "other").symlink_to(tmp_path / "top" / "y", target_is_directory=True)
    (tmp_path / "top" / "y" / "other").symlink_to(tmp_path / "top" / "x", target_is_directory=True)
    data = ImageFolder(str(tmp_path / "top"), channels=1).load()
    assert data.labels is not None
    assert data.labels.tolist() == [0, 0, 1, 1]  # x/a, x/other/b, y/b, y/other/a
    assert data.images.flatten(1).mean(1).tolist() == [-1, 1, 1, -1]


def test_what_begins_with_a_dot_is_left_out(tmp_path: Path) -> None:
    for i, name in enumerate(("ant", "cat")):
        paint(tmp_path / name / "1.png", (4, 4), i)
        (tmp_path / name / "._1.png").write_bytes(b"of macOS")
    (tmp_path / "._2.png").write_bytes(b"of macOS")
    paint(tmp_path / ".thumbnails" / "1.png", (2, 2), 0)
    data = ImageFolder(str(tmp_path)).load()
    assert data.class_names == ("ant", "cat")
    assert len(data) == 2


def test_the_order_is_that_of_paths(tmp_path: Path) -> None:
    """Of Path objects, part by part: a/b before a-b, capitals first, as on every disk."""
    names = ("a-b/1.png", "a/b/2.png", "a/1.PNG", "B/x.jpg", "a/b.png", "a.b/9.png")
    for name in names:
        paint(tmp_path / name, (4, 4), 0)
    found = sorted(folders.images_in("path", tmp_path))
    assert found == sorted(f for f in tmp_path.rglob("*") if f.is_file())
    assert len(found) == len(names)


def test_a_stray_image_beside_the_classes_is_told(tmp_path: Path) -> None:
    for i, name in enumerate(("ant", "cat")):
        paint(tmp_path / name / "1.png", (4, 4), i)
    assert ImageFolder(str(tmp_path)).load().notes == ()
    paint(tmp_path / "stray.png", (4, 4), 9)
    data = ImageFolder(str(tmp_path)).load()
    assert data.labels is None
    (note,) = data.notes
    assert "no classes, as 1 of 3 images lie in no folder, the first of them stray.png" in note
    assert note in survey(data).problems
    shown = " ".join(CliRunner().invoke(cli.main, ["data", f"image_folder:path={tmp_path}"]).stdout.split())
    assert f"note {note}" in shown
    assert ImageFolder(str(tmp_path / "ant")).load().notes == ()  # flat
