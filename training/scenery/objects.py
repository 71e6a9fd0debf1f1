"""The objects that the shipped model can draw: Fluent 3D emoji by code point, named by the `emoji` package at prepare
time.

Chosen for distinct shapes and colours: 64 objects that come out crisp serve a first edit better than hundreds of
smudges.
"""

from __future__ import annotations

CODE_POINTS: tuple[str, ...] = tuple(
    """
    1f34e 1f34a 1f34b 1f349 1f347 1f353 1f352 1f34d 1f95d 1f346 1f951 1f966 1f955 1f33d 1f344 1f355
    1f354 1f32d 1f369 1f36a 1f382 1f9c1 1f366 1f36b 1f36d 1f33b 1f337 1f339 1f335 1f334 1f332 1f341
    1f340 1f330 1f436 1f431 1f43c 1f98a 1f42f 1f438 1f437 1f427 1f41e 1f98b 1f419 1f420 1f422 1f984
    26bd 1f3c0 1f388 1f381 1f451 1f48e 1f680 1f697 1f68c 23f0 1f9f8 2764-fe0f 2b50 26c4 1f383 1f916
    """.split()
)

# What people type beside the official name; each is used in training as often as the name itself.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "1f34e": ("apple", "苹果"),
    "1f34a": ("orange", "橙子"),
    "1f33d": ("corn", "玉米"),
    "1f354": ("burger", "汉堡包"),
    "1f369": ("donut", "甜甜圈"),
    "1f382": ("cake", "birthday cake", "蛋糕"),
    "1f366": ("ice cream", "冰淇淋"),
    "1f36b": ("chocolate", "巧克力"),
    "1f332": ("pine tree", "christmas tree", "松树"),
    "1f341": ("leaf", "枫叶"),
    "1f340": ("clover", "四叶草"),
    "1f436": ("dog", "puppy", "小狗"),
    "1f431": ("cat", "kitten", "猫咪"),
    "1f43c": ("panda bear", "熊猫"),
    "1f42f": ("tiger", "老虎"),
    "1f437": ("pig", "小猪"),
    "1f41e": ("ladybug", "ladybird", "瓢虫"),
    "1f420": ("fish", "鱼"),
    "1f984": ("unicorn", "独角兽"),
    "26bd": ("football", "soccer", "足球"),
    "1f381": ("gift", "present", "礼物"),
    "1f48e": ("diamond", "gem", "钻石"),
    "1f697": ("car", "red car", "汽车"),
    "1f68c": ("bus", "公交车"),
    "23f0": ("clock", "闹钟"),
    "1f9f8": ("teddy", "bear", "玩具熊"),
    "2764-fe0f": ("heart", "爱心"),
    "2b50": ("yellow star", "五角星"),
    "26c4": ("snowman", "雪人"),
    "1f383": ("pumpkin", "halloween pumpkin", "南瓜"),
    "1f335": ("green cactus",),
}


def character(code_point: str) -> str:
    """`1f34e` -> the emoji itself, also for sequences joined by dashes."""
    return "".join(chr(int(part, 16)) for part in code_point.split("-"))
