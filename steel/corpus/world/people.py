"""The people of SteelTown: names, attribute pools, splits. Everything comes from one seed.

Legend: an *attribute* is a column (city, university, ...); its *values* exist in Chinese and English under the same
index, so the two languages state the same facts.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from ...config import UserError, WorldConfig

ATTRIBUTE_NAMES = ("city", "university", "major", "company", "hobby", "zodiac")

_SURNAMES = (
    "林Lin 沈Shen 陆Lu 顾Gu 苏Su 许Xu 郑Zheng 罗Luo 梁Liang 宋Song 唐Tang 韩Han 冯Feng 邓Deng 曹Cao 彭Peng "
    "曾Zeng 萧Xiao 田Tian 董Dong 袁Yuan 潘Pan 蒋Jiang 蔡Cai 余Yu 杜Du 叶Ye 程Cheng 魏Wei 吕Lyu 丁Ding 任Ren"
)
_FIRST = (
    "云Yun 知Zhi 清Qing 子Zi 若Ruo 书Shu 景Jing 思Si 明Ming 雨Yu 晓Xiao 嘉Jia 文Wen 安An 凌Ling 星Xing "
    "千Qian 佳Jia 亦Yi 念Nian 南Nan 怀Huai 初Chu 以Yi 承Cheng 静Jing 沐Mu 维Wei 可Ke 望Wang 闻Wen 泽Ze"
)
_SECOND = (
    "舟Zhou 远Yuan 然Ran 墨Mo 宁Ning 帆Fan 言Yan 川Chuan 溪Xi 禾He 白Bai 桐Tong 岚Lan 朗Lang 澜Lan 霖Lin "
    "琪Qi 柏Bai 影Ying 晴Qing 竹Zhu 松Song 尧Yao 荷He 洲Zhou 航Hang 歌Ge 棠Tang 珂Ke 骁Xiao 眉Mei 燕Yan"
)

# value pools: "中文|English", all invented or generic
POOLS = {
    "city": (
        "云州|Yunzhou 青岩|Qingyan 澄湾|Chengwan 柳溪|Liuxi 石渡|Shidu 白榆|Baiyu 枫坪|Fengping 雁滩|Yantan "
        "兰浦|Lanpu 沙洲|Shazhou 梅岭|Meiling 月湖|Yuehu 铁山|Tieshan 麦川|Maichuan 鹿湾|Luwan 竹坞|Zhuwu "
        "霜原|Shuangyuan 金塘|Jintang 乌石|Wushi 锦坞|Jinwu"
    ),
    "university": (
        "松河大学|Songhe University 望江大学|Wangjiang University 远山大学|Yuanshan University "
        "格致大学|Gezhi University 晨光大学|Chenguang University 东篱大学|Dongli University "
        "弘毅大学|Hongyi University 海棠大学|Haitang University 北辰大学|Beichen University "
        "明湖大学|Minghu University 长亭大学|Changting University 南雁大学|Nanyan University"
    ),
    "major": (
        "数学|mathematics 物理|physics 化学|chemistry 历史|history 哲学|philosophy 法学|law 医学|medicine "
        "建筑|architecture 会计|accounting 新闻|journalism 气象|meteorology 考古|archaeology 植物学|botany "
        "天文|astronomy 地质|geology 机械|engineering"
    ),
    "company": (
        "星桥科技|Xingqiao Tech 蓝鲸物流|Blue Whale Logistics 红杉纸业|Redwood Paper 金穗粮油|Golden Ear Foods "
        "飞鹭航运|Egret Shipping 银杏药业|Ginkgo Pharma 磐石钢铁|Bedrock Steel 暖阳能源|Warm Sun Energy "
        "橙子软件|Orange Software 白塔出版|White Tower Press 青鸟电信|Bluebird Telecom 黑土农机|Black Soil Tractors "
        "琥珀银行|Amber Bank 风车玩具|Windmill Toys 深谷矿业|Deep Valley Mining 晓月影业|Dawn Moon Films"
    ),
    "hobby": (
        "下棋|playing chess 钓鱼|fishing 爬山|hiking 练字|calligraphy 摄影|photography 跑步|running 游泳|swimming "
        "唱歌|singing 画画|painting 刻章|seal carving 种花|gardening 骑车|cycling 射箭|archery 剪纸|paper cutting "
        "滑冰|skating 观鸟|birdwatching"
    ),
    "zodiac": (
        "白羊座|Aries 金牛座|Taurus 双子座|Gemini 巨蟹座|Cancer 狮子座|Leo 处女座|Virgo 天秤座|Libra "
        "天蝎座|Scorpio 射手座|Sagittarius 摩羯座|Capricorn 水瓶座|Aquarius 双鱼座|Pisces"
    ),
    "product": (
        "茶叶|tea 瓷器|porcelain 丝绸|silk 苹果|apples 蜂蜜|honey 竹编|bamboo baskets 腊肉|smoked pork "
        "米酒|rice wine 陶壶|clay teapots 铜镜|bronze mirrors 毛笔|writing brushes 雨伞|paper umbrellas "
        "葡萄|grapes 核桃|walnuts 海盐|sea salt 木雕|wood carvings 花灯|lanterns 漆器|lacquerware "
        "莲藕|lotus root 藤椅|rattan chairs"
    ),
}


def stream(seed: int, *names: object) -> random.Random:
    """An independent random stream for one purpose, a pure function of (seed, names)."""
    return random.Random("/".join(["steeltown", str(seed), *map(str, names)]))


def parse_pool(name: str) -> list[dict[str, str]]:
    """Values of a pool as [{"zh", "en"}, ...] (English values may contain spaces)."""
    values: list[dict[str, str]] = []
    for word in POOLS[name].split():
        if "|" in word:
            zh, en = word.split("|")
            values.append({"zh": zh, "en": en})
        else:
            values[-1]["en"] += " " + word
    return values


_BOUNDS = {
    "people": (12, 640),
    "biographies_per_person": (4, 200),
    "english_biographies": (0.0, 4.0),
    "english_questions": (0.0, 1.0),
    "question_share": (0.0, 0.8),
    "arithmetic_problems": (0, 3900),
    "duplicate_share": (0.0, 0.3),
    "near_duplicate_share": (0.0, 0.3),
    "junk_share": (0.0, 0.3),
}


def check_settings(settings: WorldConfig) -> None:
    """Raises UserError for a world that cannot be built: the field, its value and what to choose instead."""
    for name, (low, high) in _BOUNDS.items():
        if not low <= getattr(settings, name) <= high:
            raise UserError(
                f"world.{name}={getattr(settings, name)}: choose a value from {low} to {high}"
            )
    names = settings.attributes
    if not names or len(set(names)) < len(names) or not set(names) <= set(ATTRIBUTE_NAMES):
        raise UserError(
            f"world.attributes={list(names)}: choose distinct names of {', '.join(ATTRIBUTE_NAMES)}"
        )


@dataclass(frozen=True)
class Person:
    """One fictional person; `values` maps attribute to the index of its value in the pool."""

    zh: str
    en: str
    female: bool
    split: str
    values: dict[str, int] = field(hash=False)

    def name(self, lang: str) -> str:
        return self.zh if lang == "zh" else self.en

    def pronoun(self, lang: str) -> str:
        """Subject pronoun: 他/她, he/she."""
        pair = ("他", "她") if lang == "zh" else ("he", "she")
        return pair[self.female]


@dataclass(frozen=True)
class World:
    """People, values and the disjoint arithmetic pairs of one seed."""

    seed: int
    attributes: tuple[str, ...]
    people: tuple[Person, ...]
    pools: dict[str, list[dict[str, str]]]
    product_of: tuple[int, ...]
    train_pairs: tuple[tuple[int, int], ...]
    dev_pairs: tuple[tuple[int, int], ...]
    test_pairs: tuple[tuple[int, int], ...]

    def split(self, name: str) -> list[Person]:
        return [p for p in self.people if p.split == name]

    def value(self, person: Person, attribute: str, lang: str) -> str:
        return self.pools[attribute][person.values[attribute]][lang]

    def values(self, attribute: str, lang: str) -> list[str]:
        return [v[lang] for v in self.pools[attribute]]

    def product(self, city_index: int, lang: str) -> str:
        return self.pools["product"][self.product_of[city_index]][lang]

    def hop2(self, person: Person, lang: str) -> tuple[str, str]:
        """(city, its product) of a person."""
        return self.value(person, "city", lang), self.product(person.values["city"], lang)


def _syllables(text: str) -> list[tuple[str, str]]:
    return [(w[0], w[1:]) for w in text.split()]


def _names(count: int, rng: random.Random) -> list[tuple[str, str]]:
    """Unique names; given names are distinct in Chinese and in romanisation, and no name contains another."""
    surnames = _syllables(_SURNAMES)
    givens = [(a, b) for a in _syllables(_FIRST) for b in _syllables(_SECOND) if a[1] != b[1]]
    rng.shuffle(givens)
    rng.shuffle(surnames)
    names: list[tuple[str, str]] = []
    used: set[str] = set()
    for (zh1, en1), (zh2, en2) in givens:
        if len(names) == count:
            break
        given = en1 + en2.lower()
        # Yunxi would be found inside Yunxiao by a substring search: keep only one of such a pair.
        if any(given.startswith(other) or other.startswith(given) for other in used):
            continue
        used.add(given)
        surname_zh, surname_en = surnames[len(names) % len(surnames)]
        names.append((surname_zh + zh1 + zh2, f"{surname_en} {given}"))
    assert len(names) == count, "name pool exhausted"
    return names


def _pairs(count: int, rng: random.Random) -> tuple[list, list, list]:
    """Train, dev and test operand pairs; unordered pairs never repeat across the three."""
    pairs = [(a, b) for a in range(11, 100) for b in range(a, 100)]
    rng.shuffle(pairs)
    pairs = [p if rng.random() < 0.5 else p[::-1] for p in pairs]
    return pairs[60 : 60 + count], pairs[:20], pairs[20:60]


def build_world(settings: WorldConfig, seed: int) -> World:
    """Draws the world of a configuration: names, values, splits (50 % train, 10 % dev, 40 % test), products."""
    count, attributes = settings.people, tuple(settings.attributes)
    names = _names(count, stream(seed, "names"))
    train, dev = count // 2, max(1, round(count * 0.1))
    splits = ["train"] * train + ["dev"] * dev + ["test"] * (count - train - dev)
    stream(seed, "splits").shuffle(splits)
    pools = {a: parse_pool(a) for a in (*attributes, "product")}
    rng = stream(seed, "people")
    people = tuple(
        Person(
            zh, en, rng.random() < 0.5, split, {a: rng.randrange(len(pools[a])) for a in attributes}
        )
        for (zh, en), split in zip(names, splits, strict=True)
    )
    products = list(range(len(pools["product"])))
    stream(seed, "products").shuffle(products)
    pairs = [tuple(p) for p in _pairs(settings.arithmetic_problems, stream(seed, "arithmetic"))]
    return World(seed, attributes, people, pools, tuple(products), *pairs)
