"""Labels of one's own images, from folders or a table, for the data set and for other images."""

import os
import unicodedata

import pytest

from data import build_dataset
from data.folder.labels import read_labels
from data.folder.pictures import new_pictures
from tests.own_pictures import WHOLE, build, config, write
from utils.config import load_config
from utils.errors import UserError


def labelled(folder, rule):
    return build(folder, "train", WHOLE, f"folder.labels={rule}")


def targets_of(dataset):
    return {dataset.name(row): int(dataset.targets[row]) for row in range(len(dataset))}


def test_the_first_folder_on_the_way_is_the_label_and_images_outside_have_none(folder, capsys):
    write(folder, "cat/a.png", "cat/old/b.png", "dog/c.png", "loose.png")
    dataset = labelled(folder, "subfolder")
    assert dataset.classes == ["cat", "dog"]
    assert targets_of(dataset) == {"cat/a.png": 0, "cat/old/b.png": 0, "dog/c.png": 1, "loose.png": -1}
    assert "3 images in 2 classes, such as cat, dog" in capsys.readouterr().out


def test_both_splits_number_the_same_classes(folder):
    write(folder, "cat/a.png", "dog/b.png")
    write(folder.parent / "other", "ape/c.png", "dog/d.png")
    own = "folder.labels=subfolder", f"folder.val_path={folder.parent / 'other'}"
    train, val = build(folder, "train", *own), build(folder, "val", *own)
    assert train.classes == val.classes == ["ape", "cat", "dog"]
    assert targets_of(train) == {"cat/a.png": 1, "dog/b.png": 2}
    assert targets_of(val) == {"ape/c.png": 0, "dog/d.png": 2}


def test_labels_that_are_not_utf8_are_escaped(folder):
    write(folder, "cat/a.png", "dog/b.png")
    os.rename(folder / "dog", os.fsencode(folder) + b"/\xffdog")
    assert labelled(folder, "subfolder").classes == [r"\xffdog", "cat"]
    (folder / "labels.csv").write_bytes(b"path,label\ncat/a.png,\xfe\n\xffdog/b.png,\xfd\n")
    dataset = labelled(folder, "labels.csv")
    assert dataset.classes == [r"\xfd", r"\xfe"] and dataset.targets.tolist() == [1, 0]


@pytest.mark.parametrize("names", [["all/cat/a.png", "all/dog/b.png"], ["a.png"]], ids=["one", "none"])
def test_fewer_than_two_classes_are_no_labels_which_is_said(names, folder, capsys):
    write(folder, *names)
    assert labelled(folder, "subfolder").targets is None
    assert "warning: folder.labels subfolder" in capsys.readouterr().out


def test_a_table_labels_what_it_names_and_classes_are_ordered_as_numbers(folder, capsys):
    write(folder, "a.png", "b.png", "c.png", "in/d.png", "e.png")
    table = 'label,path,remark\n10,a.png,x\n9,"b.png",\n-1,c.png,\n 9 ,./in/d.png,\n9,gone.png,\n,e.png,\n'
    (folder / "labels.csv").write_text(table, encoding="utf-8-sig")
    dataset = labelled(folder, "labels.csv")
    assert dataset.classes == ["9", "10"]
    assert targets_of(dataset) == {"a.png": 1, "b.png": 0, "c.png": -1, "e.png": -1, "in/d.png": 0}
    assert "gone.png" in capsys.readouterr().out


def test_a_table_is_looked_for_where_it_is_named_and_then_in_the_folder(folder, tmp_path, monkeypatch):
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    for place, label in ((folder, "inside"), (tmp_path, "as named")):
        (place / "Labels.CSV").write_text(f"path,label\na.png,{label}\n")
        assert read_labels(folder, ["a.png"], "Labels.CSV") == {"a.png": label}


TABLES = {  # content, None for no file: what the error names
    None: "No such file",
    "": "path",
    "file,class\na.png,1\n": "file,class",
    "path,label\na.png,1\na.png,2\n": "a.png .*1 and 2",
    "path,label\nz.png,1\n": "z.png",
    'path,label\n"a.png,1\n': "unexpected end of data",
}


@pytest.mark.parametrize("table", TABLES)
def test_a_table_that_is_missing_malformed_or_of_other_images_is_refused(table, tmp_path):
    if table is not None:
        (tmp_path / "labels.csv").write_text(table)
    with pytest.raises(UserError, match=rf"labels\.csv.*{TABLES[table]}"):
        read_labels(tmp_path, ["a.png", "b.png"], "labels.csv")
    with pytest.raises(UserError, match=r"folder\.labels.*subfolders"):  # no rule
        read_labels(tmp_path, ["a.png"], "subfolders")


def test_new_images_are_labelled_by_the_same_rule_where_it_applies(folder):
    write(folder, "cat/a.png", "dog/b.png")
    write(folder.parent / "new", "dog/c.png", "emu/d.png")
    new = new_pictures(config(folder, "folder.labels=subfolder"), folder.parent / "new")
    assert new.classes == ["cat", "dog", "emu"] and new.targets.tolist() == [1, 2]
    assert new_pictures(config(folder, "folder.labels=labels.csv"), folder.parent / "new").targets is None
    cfg = load_config(None, "configs/scan/scan_cifar10.yml", [f"root_dir={folder.parent}"])
    assert new_pictures(cfg, folder.parent / "new").images.shape == (2, 3, 32, 32)


def test_labels_that_were_asked_for_and_cannot_be_read_are_an_error(folder):
    write(folder, "a.png", "b.png")
    cfg = config(folder, "folder.labels=labels.csv")
    for table in (None, "file;class\n", "path,label\nz.png,cat\n"):
        if table:
            (folder / "labels.csv").write_text(table)
        assert new_pictures(cfg, folder).targets is None
        with pytest.raises(UserError, match=r"labels\.csv"):
            new_pictures(cfg, folder, needs_labels=True)


def test_names_and_labels_match_however_their_accents_are_written(folder):
    names = ["Käse.png", "é/ñ.png", "plain.png"]
    apart = [unicodedata.normalize("NFD", name) for name in names]
    for files, rows in ((apart, names), (names, apart)):
        table = "".join(f"{name},{name}\n" for name in rows)
        (folder.parent / "labels.csv").write_text(f"path,label\n{table}", encoding="utf-8")
        found = read_labels(folder, files, str(folder.parent / "labels.csv"))
        assert found == dict(zip(files, names, strict=True))
    assert read_labels(folder, apart, "subfolder") == {apart[1]: "é"}
    (folder.parent / "labels.csv").write_text("path,label\ne\u0301\\n\u0303.png,windows\n", encoding="utf-8")
    assert read_labels(folder, names, str(folder.parent / "labels.csv")) == {names[1]: "windows"}
    table = f"path,label\n{names[0]},1\n{apart[0]},2\n"  # which of them is meant cannot be known
    (folder.parent / "labels.csv").write_text(table, encoding="utf-8")
    with pytest.raises(UserError, match="1 and 2"):
        read_labels(folder, names, str(folder.parent / "labels.csv"))


def test_what_other_programs_write_for_unknown_is_no_class_and_floats_are_whole_numbers(tmp_path):
    labels = ["2.0", "2", "-1.0", "-1", "nan", "NaN", "<NA>", "#N/A", "#NV", "-1,0", "NULL", "", "  ", "none"]
    files = [f"{row}.png" for row in range(len(labels))]
    rows = "".join(f"{name};{label}\n" for name, label in zip(files, labels, strict=True))
    (tmp_path / "labels.tsv").write_text(f"path;label\n{rows}")
    known = {"0.png": "2", "1.png": "2", "13.png": "none"}
    assert read_labels(tmp_path, files, "labels.tsv") == known


def test_a_space_too_many_in_a_name_is_seen_in_what_is_said(folder, capsys):
    (folder.parent / "labels.csv").write_text("path,label\na.png,1\nb.png ,2\n")
    assert read_labels(folder, ["a.png", "b.png"], str(folder.parent / "labels.csv")) == {"a.png": "1"}
    assert "'b.png '" in capsys.readouterr().out


def test_classes_of_any_number_of_digits_are_ordered_as_numbers(folder):
    labels = ["9" * 5000, "1" + "0" * 5000, "7", "007", "word", "٣"]
    write(folder, *(f"{row}.png" for row in range(6)))
    rows = "".join(f"{row}.png,{label}\n" for row, label in enumerate(labels))
    (folder / "labels.csv").write_text(f"path,label\n{rows}", encoding="utf-8")
    assert labelled(folder, "labels.csv").classes == ["007", "7", labels[0], labels[1], "word", "٣"]


def test_a_table_may_name_images_of_one_folder_only(folder, capsys):
    new, table = folder.parent / "new", folder.parent / "labels.csv"
    write(folder, "a.png", "b.png")
    write(new, "c.png", "d.png")
    cfg = config(folder, f"folder.labels={table}", WHOLE)
    table.write_text("path,label\na.png,1\nb.png,2\n")
    assert build_dataset(cfg, "train").targets is not None and new_pictures(cfg, new).targets is None
    assert str(table) in capsys.readouterr().out
    table.write_text("path,label\nc.png,1\nd.png,2\n")
    assert new_pictures(cfg, new).targets.tolist() == [0, 1]
