"""What a Vietnamese speaker wants of a smart home, as intent classification: sentences grown from sentence templates.

    "(tắt|đóng) [cái] {name} [ở] {area}"  ->  "tắt đèn bàn ở phòng khách"    label HassTurnOff

The package holds templates in the grammar of Home Assistant's `hassil`: `[a]` is optional, `(a|b)` one of several, `(a;b)`
all in any order, `<rule>` another template and `{list:slot}` a word of a list. Lists that are open (rooms, devices, items)
are filled from `OPEN` below. Each template gives at most `PER_TEMPLATE` different sentences, drawn by a generator that its
own text seeds, so the rows are the same everywhere and one intent with many templates does not drown the others. A
sentence that two intents share is left out. Rows are ordered by a hash.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.assets.archive import zip_bytes
from tunesmith.assets.rows import Dropped, Row, by_hash
from tunesmith.errors import AssetError

PER_TEMPLATE = 24
_TRIES = 8 * PER_TEMPLATE
_DEPTH = 20
_MEMBER = "home_assistant_intents/data/vi.json"
_TOKEN = re.compile(r"\[|\]|\(|\)|\||;|<[^>]+>|\{[^}]+\}|[^\[\]()|;<{]+")

OPEN = {
    "area": ["phòng khách", "phòng ngủ", "nhà bếp", "phòng tắm", "ban công", "phòng làm việc", "hành lang", "sân vườn"],
    "zone": ["nhà", "cơ quan", "trường học", "chợ"],
    "shopping_list_item": ["sữa", "bánh mì", "trứng gà", "rau muống", "nước mắm", "cà phê", "gạo"],
    "todo_list_item": ["gọi cho mẹ", "đóng tiền điện", "tưới cây", "sửa xe", "nộp báo cáo"],
    "binary_sensor": ["cảm biến cửa", "cảm biến chuyển động", "cửa kho"],
    "climate": ["điều hòa", "máy lạnh", "máy sưởi"],
    "cover": ["rèm cửa sổ", "cửa cuốn", "mái che"],
    "fan": ["quạt trần", "quạt đứng"],
    "input_boolean": ["chế độ đi vắng", "chế độ khách"],
    "light": ["đèn bàn", "đèn ngủ", "đèn trần", "đèn cây", "đèn hiên"],
    "lock": ["cửa trước", "cửa sau", "cổng chính"],
    "media_player": ["tivi", "loa", "dàn âm thanh"],
    "person": ["Lan", "Minh", "Hùng", "Mai"],
    "scene": ["xem phim", "đi ngủ", "buổi sáng", "tiệc tùng"],
    "script": ["dọn nhà", "chào buổi sáng", "báo động thử"],
    "sensor": ["nhiệt kế", "đồng hồ điện", "cảm biến độ ẩm"],
    "switch": ["ổ cắm", "máy bơm", "bình nóng lạnh"],
    "todo": ["việc nhà", "việc cần làm"],
    "vacuum": ["robot hút bụi", "máy hút bụi"],
    "valve": ["van nước", "van tưới"],
    "weather": ["Hà Nội", "Đà Nẵng", "Cần Thơ"],
}
"""What the package leaves to its users: names of rooms, things to buy, and of devices by kind (`{name}`)."""


def vietnamese(archives: Sequence[Path]) -> Iterator[Row | Dropped]:
    """`text` and `label` of every sentence grown."""
    data = json.loads(zip_bytes(archives[0], _MEMBER))
    found: dict[str, set[str]] = {}
    for intent, entry in data["intents"].items():
        for block in entry["data"]:
            grammar = Grammar(data["expansion_rules"], data["lists"], _kinds(block))
            for template in block["sentences"]:
                for sentence in grammar.grow(template):
                    found.setdefault(sentence, set()).add(intent)
    rows = []
    for sentence, intents in found.items():
        if len(intents) > 1:
            yield Dropped("said for several intents")
        else:
            rows.append({"text": sentence, "label": next(iter(intents))})
    yield from by_hash(rows, "text")


def _kinds(block: Mapping[str, Any]) -> list[str]:
    """Kinds of device that a block's `{name}` may be."""
    domain = block.get("requires_context", {}).get("domain", [])
    return [kind for kind in ([domain] if isinstance(domain, str) else domain) if kind in OPEN]


class Grammar:
    """Templates to sentences.

    Args:
        rules: templates by name.
        lists: word lists by name: `{"values": [{"in": template}]}`, `{"range": {"from", "to", "step"}}` or open ones.
        kinds: kinds of device that `{name}` stands for.
    """

    def __init__(self, rules: Mapping[str, str], lists: Mapping[str, Any], kinds: Sequence[str]) -> None:
        self.rules, self.lists, self.kinds = rules, lists, kinds

    def grow(self, template: str, most: int = PER_TEMPLATE) -> list[str]:
        """At most `most` different sentences of a template, the same ones every time."""
        rng = random.Random(f"{template}\0{' '.join(self.kinds)}")
        found: dict[str, None] = {}
        for _ in range(_TRIES):
            if len(found) == most:
                break
            sentence = " ".join(self._say(template, rng, 0).split())
            if sentence:
                found[sentence] = None
        return list(found)

    def _say(self, template: str, rng: random.Random, depth: int) -> str:
        if depth > _DEPTH:
            raise AssetError(f"the template `{template}` calls itself; the package is not the one we know.")
        tokens = _TOKEN.findall(template)
        text, at = self._choice(tokens, 0, rng, depth)
        if at != len(tokens):
            raise AssetError(f"the template `{template}` has a bracket too many; the package is not the one we know.")
        return text

    def _choice(self, tokens: Sequence[str], at: int, rng: random.Random, depth: int) -> tuple[str, int]:
        """One of the alternatives, or all parts of a permutation, up to the closing bracket."""
        parts, order = [""], ""
        while at < len(tokens) and tokens[at] not in ")]":
            token = tokens[at]
            at += 1
            if token in "|;":
                parts.append("")
                order = token
                continue
            if token in "([":
                said, at = self._choice(tokens, at, rng, depth)
                if at >= len(tokens):
                    raise AssetError("a template has an open bracket; the package is not the one we know.")
                at += 1
                if token == "[" and rng.random() < 0.5:
                    said = ""
            elif token[0] == "<":
                said = self._say(self._named(self.rules, token[1:-1]), rng, depth + 1)
            elif token[0] == "{":
                said = self._word(token[1:-1].partition(":")[0], rng, depth)
            else:
                said = token
            parts[-1] = _joined(parts[-1], said)
        if order == ";":
            # Not rng.shuffle: only random() itself gives the same numbers in every version of Python.
            return " ".join(part for _, part in sorted((rng.random(), part) for part in parts)), at
        return _drawn(parts, rng), at

    def _word(self, name: str, rng: random.Random, depth: int) -> str:
        if name == "name":
            return _drawn(OPEN[_drawn(self.kinds or ["light"], rng)], rng)
        if name in OPEN:
            return _drawn(OPEN[name], rng)
        words = self._named(self.lists, name)
        if "range" in words:
            bounds = words["range"]
            return str(_drawn(range(bounds["from"], bounds["to"] + 1, bounds.get("step", 1)), rng))
        if "values" in words:
            value = _drawn(words["values"], rng)
            return self._say(value["in"] if isinstance(value, dict) else value, rng, depth + 1)
        raise AssetError(f"the open list `{name}` has no words here; the package is not the one we know.")

    def _named(self, table: Mapping[str, Any], name: str) -> Any:
        if name not in table:
            raise AssetError(f"a template names `{name}`, which is not there; the package is not the one we know.")
        return table[name]


def _drawn(options: Sequence[Any], rng: random.Random) -> Any:
    return options[int(rng.random() * len(options))]


def _joined(before: str, after: str) -> str:
    """Two pieces; templates leave out spaces between brackets (`[thôi][được rồi]`) that speech has."""
    gap = " " if before[-1:].isalnum() and after[:1].isalnum() else ""
    return f"{before}{gap}{after}"
