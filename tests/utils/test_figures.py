"""The files that a figure becomes."""

import struct
from pathlib import Path

import pytest

from icd_mmrazor.errors import SettingError
from icd_mmrazor.utils.figures import figure_files, new_figure, save_figure, style


def test_a_figure_is_png_and_svg_without_formulas(tmp_path: Path) -> None:
    figure, panels = new_figure(1, 2, sharey=True)
    # names of folders, no formulas: matplotlib would refuse to typeset them
    for panel, name in zip(panels.flat, (r'$\broken$', 'a$b$c'), strict=True):
        panel.plot([1, 2], [3, 4], label=name, **style(1)._asdict())
        panel.set_title(name)
        panel.set_yticks([3, 4], [name, 'b'])
        panel.legend(title=name)
    files = save_figure(figure, tmp_path / 'new' / 'figure.png')
    assert files == [tmp_path / 'new' / 'figure.png', tmp_path / 'new' / 'figure.svg']
    assert sorted(files[0].parent.iterdir()) == files
    png, svg = (file.read_bytes() for file in files)
    assert png.startswith(b'\x89PNG')
    assert struct.unpack('>II', png[16:24]) == (2 * 540, 420)
    assert b'a$b$c' in svg
    # ours are drawn anew, and the same figure is the same file
    save_figure(figure, tmp_path / 'new' / 'figure.svg')
    assert [file.read_bytes() for file in files] == [png, svg]
    assert save_figure(figure, tmp_path / 'a.pdf') == save_figure(figure, tmp_path / 'a.pdf')


def test_styles_are_told_apart() -> None:
    assert len({style(place) for place in range(210)}) == 210
    for field in zip(*map(style, range(5)), strict=True):
        assert len(set(field)) == 5


def test_a_users_file_is_not_replaced(tmp_path: Path) -> None:
    figure, _ = new_figure()
    file = tmp_path / 'figure.svg'
    file.write_text('mine')
    with pytest.raises(SettingError, match=r'--out .*figure\.png: .*figure\.svg exists'):
        save_figure(figure, tmp_path / 'figure.png')
    assert list(tmp_path.iterdir()) == [file]
    with pytest.raises(SettingError, match=r'--figure .*\.gif: name a file that ends in \.png, \.svg, \.pdf'):
        figure_files(tmp_path / 'figure.gif', setting='--figure')
    with pytest.raises(SettingError, match='is a file, not a folder'):
        figure_files(file / 'new' / 'figure.png')
    (tmp_path / 'folder.png').mkdir()
    with pytest.raises(SettingError, match='is a folder'):
        figure_files(tmp_path / 'folder.png')
    save_figure(figure, file, force=True)
    assert file.read_text().startswith('<?xml')
