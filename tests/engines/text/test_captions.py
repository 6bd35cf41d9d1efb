"""Captions: words, style and background as one text, in the language of the words."""

import pytest

from engines import requests
from engines.text.captions import BACKGROUNDS, BACKGROUNDS_ZH, STYLES_ZH, compose


@pytest.mark.parametrize("parts, caption", [
    (("a red fox",), "a red fox"),
    (("a red fox", "flat"), "a red fox, flat"),
    (("a red fox", "", "blue"), "a red fox, on a blue background"),
    (("a red fox", "3d", "blue"), "a red fox, 3d, on a blue background"),
    (("a red fox", "3d", "orange"), "a red fox, 3d, on an orange background"),
    (("", "glossy"), "glossy"),
    (("", "", "white"), "on a white background"),
    (("", "", ""), ""),
    (("红色的狐狸",), "红色的狐狸"),
    (("红色的狐狸", "flat"), "红色的狐狸，扁平"),
    (("红色的狐狸", "", "blue"), "红色的狐狸，蓝色背景"),
    (("红色的狐狸", "3d", "orange"), "红色的狐狸，立体，橙色背景"),
    (("fox 狐狸", "cartoon", "grey"), "fox 狐狸，卡通，灰色背景"),  # one Chinese word is enough
])
def test_captions_are_in_the_language_of_their_words(parts, caption):
    assert compose(*parts) == caption


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_every_background_is_said_in_both_languages(background):
    assert background in compose("fox", background=background)
    chinese = compose("狐狸", background=background)
    assert BACKGROUNDS_ZH[background] in chinese and background not in chinese


@pytest.mark.parametrize("style", requests.STYLES)
def test_every_style_is_said_in_both_languages(style):
    assert compose("fox", style) == f"fox, {style}"
    assert compose("狐狸", style) == f"狐狸，{STYLES_ZH[style]}"


def test_no_two_are_said_alike():
    assert set(BACKGROUNDS) == set(BACKGROUNDS_ZH)
    assert set(STYLES_ZH) == set(requests.STYLES)
    for table in (BACKGROUNDS, BACKGROUNDS_ZH, STYLES_ZH):
        assert len(set(table.values())) == len(table)
