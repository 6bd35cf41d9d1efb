"""How words, style and background are put together: the same in training and on the page."""

import re

STYLES_ZH = {"3d": "立体", "glossy": "光泽", "flat": "扁平", "cartoon": "卡通"}

BACKGROUNDS = {
    "white": (255, 255, 255),
    "black": (24, 24, 27),
    "grey": (156, 163, 175),
    "red": (220, 60, 60),
    "orange": (245, 150, 60),
    "yellow": (250, 215, 90),
    "green": (90, 180, 105),
    "blue": (80, 135, 225),
    "purple": (150, 105, 210),
    "pink": (245, 165, 195),
    "brown": (140, 100, 70),
    "beige": (240, 228, 205),
}

BACKGROUNDS_ZH = {
    "white": "白色",
    "black": "黑色",
    "grey": "灰色",
    "red": "红色",
    "orange": "橙色",
    "yellow": "黄色",
    "green": "绿色",
    "blue": "蓝色",
    "purple": "紫色",
    "pink": "粉色",
    "brown": "棕色",
    "beige": "米色",
}

_CHINESE = re.compile(r"[\u4e00-\u9fff]")


def compose(text, style="", background=""):
    """One caption of its parts, in the language of `text`: “fox, flat, on a blue background”.

    `style` and `background` are their English names; empty parts are left out.
    """
    if _CHINESE.search(text):
        parts = [text, STYLES_ZH.get(style, style), BACKGROUNDS_ZH[background] + "背景" if background else ""]
        return "，".join(part for part in parts if part)
    article = "an" if background[:1] in ("a", "e", "i", "o", "u") else "a"
    parts = [text, style, f"on {article} {background} background" if background else ""]
    return ", ".join(part for part in parts if part)
