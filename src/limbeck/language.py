r"""Which language is a text in, and which words and sentences does it have?

`spans` finds words by Unicode's rules: letters, digits and the marks that belong to them. Where
words are written without spaces between them (Chinese, Japanese, Thai, ...), and in Korean, whose
words carry their grammar as endings, overlapping pairs of characters stand for words; that is
decided by script, run by run, so a text may be mixed. `Terms` makes of them what BM25 counts:
lower case, one form for equal characters, no stop words, Snowball's stems in the collection's
language. `guess` finds that language, by script and by function words. `sentences` is the one
splitter of the project.

English text gives exactly the words that `\w+` finds in it.

This module knows no collection, file or model. It holds no dictionary: it neither splits German
compounds nor makes traditional Chinese characters simplified ones.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import regex

from limbeck.errors import ConfigError

AUTO = "auto"  # by script and function words
ENGLISH = "en"
OTHER = "und"  # ISO 639's word for undetermined: nothing is stemmed

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Language:
    """A language that is covered; its `name` is Snowball's, where that has a stemmer."""

    code: str
    name: str
    script: str
    function_words: frozenset[str]


# code, name, script, and function words that tell it from others of its script: none that stand
# alone in code
_TABLE = """\
ar arabic Arabic في من على إلى أن هذا هذه التي الذي عن مع أو هو لا ما
bg bulgarian Cyrillic и на да се за от не са по или като това при към
bn bengali Bengali
ca catalan Latin els les amb per que del una és no més dels aquest
cs czech Latin se na je že do pro nebo jako jsou která pokud který by
da danish Latin og af det at en er til på som ikke med der kan fra du
de german Latin das den der des die ein eine für ist mit nicht sich und von zu
el greek Greek
en english Latin the of and to in is that for it with as on be are this by from or an not which \
when if you can how what
eo esperanto Latin la kaj de en estas por al kiu kun ne ke aŭ ĉi
es spanish Latin el la los las de que en un una por con para del es se como
et estonian Latin ja on ei et see kui või mis ka ning oma olla selle
eu basque Latin eta da ez bat du ere dira edo hau baina egin izan den
fa persian Arabic و در به از که این را با است برای آن یا شود می
fi finnish Latin ja on ei se että tai kun joka ovat voi mutta jos niin
fr french Latin le la les des et est une du en pour que dans qui sur par pas
ga irish Latin agus an na is ar le go bhí ach seo sin nó atá bhfuil
he hebrew Hebrew של את על לא הוא עם זה או כי גם היא יש אם
hi hindi Devanagari के में है की को से का और पर यह एक नहीं लिए हैं
hr croatian Latin je da se na za od su koji ili što koje kako nije
hu hungarian Latin az és hogy nem egy is meg ha vagy ez lehet van minden
hy armenian Armenian
id indonesian Latin yang dan di untuk dengan ini dari tidak dalam pada
it italian Latin il di che la per un una del della con non sono gli nel le
ja japanese Kana
ka georgian Georgian
km khmer Khmer
ko korean Hangul
lo lao Lao
lt lithuanian Latin ir yra kad tai su iš į ne kaip ar už bet kuri
mr marathi Devanagari आणि आहे या हे मध्ये व ते नाही आहेत किंवा
my burmese Myanmar
ne nepali Devanagari छ र को मा गर्न पनि यो लागि हुन्छ वा गर्नुहोस्
nl dutch Latin de het een van en in is dat op te voor met zijn niet aan door
no norwegian Latin og det som er en til på av ikke med for kan fra har
pl polish Latin na nie się do jest że to jak dla od lub przez są po
pt portuguese Latin os as do da em um uma para com não que dos por mais se
ro romanian Latin și de la în cu pe un este care din nu sau sunt pentru
ru russian Cyrillic и в не на что с по для как это из от или при также
sr serbian Cyrillic и у је да се на за од су који или са ће
sv swedish Latin och att det som en är av för på med den till inte om
ta tamil Tamil
te telugu Telugu
th thai Thai
tr turkish Latin ve bir bu için ile olarak daha veya da de çok olan
uk ukrainian Cyrillic і в не на що з як це або від та є до для
ur urdu Arabic کے میں کی ہے اور سے کا کو پر یہ نہیں ہیں
vi vietnamese Latin và của là có các cho không được một những trong với
yi yiddish Hebrew און די איז אין דער צו ניט פון דאָס מיט אַז
zh chinese Han
"""


def _languages() -> dict[str, Language]:
    rows = [line.split(maxsplit=3) for line in _TABLE.splitlines()]
    found = [
        Language(code, name, script, frozenset(" ".join(rest).split()))
        for code, name, script, *rest in rows
    ]
    return {each.code: each for each in [*found, Language(OTHER, "undetermined", "", frozenset())]}


LANGUAGES: Mapping[str, Language] = _languages()


def known(language: str) -> str:
    """The code of a language that is given by code or English name; a region is left out.

    Example:
        >>> known("de"), known("German"), known("pt-BR")
        ('de', 'de', 'pt')

    Raises:
        ConfigError: for one that is not covered, with the nearest spelling.
    """
    word = language.strip().lower()
    by_name = {each.name: code for code, each in LANGUAGES.items()}
    code = by_name.get(word, re.split("[-_]", word)[0])
    code = {"nb": "no", "nn": "no"}.get(code, code)
    if code in LANGUAGES:
        return code
    near = difflib.get_close_matches(word, [*by_name, *LANGUAGES], n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    covered = ", ".join(f"{code} ({each.name})" for code, each in LANGUAGES.items())
    raise ConfigError(
        f"--language {language!r} is not covered.{hint} Use {AUTO}, or one of: {covered}; "
        f"{OTHER} finds words in any language and stems none."
    )


def chosen(language: str) -> str | None:
    """The code of a language that was asked for; None for `auto`, as a record has it.

    Raises:
        ConfigError: for one that is not covered.
    """
    return None if language == AUTO else known(language)


# --- which language ----------------------------------------------------------------------------

SAMPLED_TEXTS = 500  # passages, spread over a collection, and as many queries
SAMPLED_CHARACTERS = 500  # of each
_SCRIPTS = (
    *("Latin", "Han", "Hiragana", "Katakana", "Hangul", "Cyrillic", "Greek", "Arabic", "Hebrew"),
    *("Devanagari", "Thai", "Bengali", "Tamil", "Telugu", "Armenian", "Georgian", "Khmer", "Lao"),
    "Myanmar",
)
_SCRIPT = [(script, regex.compile(rf"\p{{{script}}}")) for script in _SCRIPTS]
_KANA = ("Hiragana", "Katakana")
_DENSE = {"Han": 3, "Kana": 2, "Hangul": 3}  # letters of other scripts that say as much
_LEAST_KANA = 0.05  # of the letters of a Japanese collection
_LEAST_SHARE = 0.03  # of a text's words that are function words, if it has sentences
_LEAST_WORDS = 5  # different ones, in Latin letters: `de`, `la`, `un` and `es` stand in code
_LEAD = 1.2  # over English, which code and names in any text resemble
_MOST_ACCENTED = 0.03  # of the letters of English, if there are at least ...
_TELLING_LETTERS = 500


@dataclass(frozen=True, slots=True)
class Guess:
    """A language's code and, in words, why."""

    code: str
    why: str
    is_mixed: bool  # a tenth of the texts or more are in another script


def guess(*fields: Sequence[str]) -> Guess:
    """The language of most of some texts: by script, then by which function words are frequent.

    Texts in Latin letters that show no other language are English: names, code, commands.

    Example:
        >>> guess(["Wie finde ich die Datei, die nicht in der Liste und mit Namen ist?"]).code
        'de'
    """
    sample = [text for texts in fields for text in sampled(texts)]
    letters: Counter[str] = Counter()
    main: Counter[str] = Counter()  # texts, by the script that most of each is in
    counts: Counter[str] = Counter()
    accented = 0
    for text in sample:
        own: Counter[str] = Counter()
        for character, count in Counter(text).items():
            if (script := _script(character)) is not None:
                own[script] += count
                accented += count * (script == "Latin" and not character.isascii())
        if own:
            letters += own
            own = Counter({each: own[each] * _DENSE.get(each, 1) for each in own})
            main[_joined(own).most_common(1)[0][0]] += 1
        counts.update(words(normal(text).lower(), OTHER))
    if not main:
        return Guess(ENGLISH, "there are no letters to tell by", False)
    texts_with, [(script, most)] = sum(main.values()), main.most_common(1)
    is_mixed = most < 0.9 * texts_with
    told = f"{most / texts_with:.0%} of the texts are in {_name(script)} script"
    if script == "Han":
        kana = letters["Kana"] / max(1, letters["Kana"] + letters["Han"])
        if kana >= _LEAST_KANA:
            return Guess("ja", f"{told}, with {kana:.0%} kana", is_mixed)
        return Guess("zh", told, is_mixed)
    told_apart = _by_function_words(script, counts)
    if told_apart is not None:
        return Guess(told_apart[0], f"{told}{told_apart[1]}", is_mixed)
    latin = letters["Latin"] if script == "Latin" else 0
    if latin and (latin < _TELLING_LETTERS or accented <= _MOST_ACCENTED * latin):
        return Guess(ENGLISH, f"{told}, and no other language is seen in its words", is_mixed)
    return Guess(OTHER, f"{told}, and no language is seen in its words", is_mixed)


def _by_function_words(script: str, counts: Counter[str]) -> tuple[str, str] | None:
    """The language of a script whose function words are most frequent, and why; None if none is."""
    spoken = [each for each in LANGUAGES.values() if each.script == script]
    if len(spoken) == 1:
        return spoken[0].code, ""
    total = max(1, sum(count for word, count in counts.items() if _script(word[0]) == script))
    shares = {
        each.code: sum(counts[word] for word in each.function_words) / total
        for each in spoken
        if script != "Latin"
        or each.code == ENGLISH
        or len(each.function_words & counts.keys()) >= _LEAST_WORDS
    }
    english = shares.pop(ENGLISH, 0.0)
    best = max(shares, key=lambda code: shares[code], default=ENGLISH)
    if best != ENGLISH and shares[best] >= _LEAST_SHARE and shares[best] > _LEAD * english:
        beside = f", {english:.0%} English ones" if english else ""
        return best, f", and {shares[best]:.0%} of the words are its function words{beside}"
    if english >= _LEAST_SHARE:
        return ENGLISH, f", and {english:.0%} of the words are English function words"
    return None


def sampled(texts: Sequence[str]) -> list[str]:
    """The beginnings of some texts, evenly spread."""
    places = np.linspace(0, len(texts) - 1, min(len(texts), SAMPLED_TEXTS))
    return [texts[at][:SAMPLED_CHARACTERS] for at in np.unique(places.astype(np.int64)).tolist()]


@lru_cache(maxsize=2**14)
def _script(character: str) -> str | None:
    """The script of a letter, kana as one; None of anything else."""
    if not character.isalpha():
        return None
    for script, pattern in _SCRIPT:
        if pattern.match(character):
            return "Kana" if script in _KANA else script
    return None


def _joined(letters: Counter[str]) -> Counter[str]:
    """Letters by script, with kana among the Han characters that they are mixed with."""
    kana = letters.pop("Kana", 0)
    return letters + Counter({"Han": kana}) if kana else letters


def _name(script: str) -> str:
    return "Chinese or Japanese" if script == "Han" else script


# --- words -------------------------------------------------------------------------------------

_NOT_APART = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\u30FC\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_POINTS = r"\u064B-\u065F\u0670\u06D6-\u06ED\u0591-\u05BD\u05BF\u05C1\u05C2\u05C4\u05C5\u05C7"
_WORD = re.compile(r"\w+")  # single letters too: they carry meaning in commands, units and formulas
_UNSPACED = regex.compile(rf"[{_NOT_APART}]")  # letters of scripts without spaces between words
_RUN = regex.compile(rf"[{_NOT_APART}]+|[\w\p{{M}}--[{_NOT_APART}]]+", regex.V1)
_MARK = regex.compile(r"\p{M}")
_MARKED = regex.compile(rf"[{_NOT_APART}\p{{M}}\u00AD\u200C\u200D]")
_MARKED_ENGLISH = regex.compile(rf"[{_NOT_APART}{_POINTS}]|[\p{{M}}--\p{{Inherited}}]", regex.V1)
_CLUSTER = regex.compile(r"\X")
_PIECE = regex.compile(rf"[{_NOT_APART}]\p{{M}}*|[^\s{_NOT_APART}]+")
# vowel signs that are mostly left out, and the line that stretches a word
_OPTIONAL = regex.compile(rf"[{_POINTS}\u0640]")
_JOINERS = regex.compile("[\u200d\u00ad]|(?<!\\p{Arabic})\u200c")  # which change no word
_DIGIT = regex.compile(r"(?![0-9])\p{Nd}")
_PERSIAN = str.maketrans({"ي": "ی", "ك": "ک", "ى": "ی", "ۀ": "ه", "\u200c": " "})
_TURKISH = str.maketrans({"I": "ı", "İ": "i"})


def normal(text: str) -> str:
    """A text in Unicode's composed form, in which equal letters are equal characters."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def words(text: str, language: str = ENGLISH) -> list[str]:
    """The words of a `normal` text, in its order, repeats kept.

    Where words are not written apart, these are overlapping pairs of characters (with their
    marks), or a character that stands alone.

    Example:
        >>> words("Linux 内核模块", "zh")
        ['Linux', '内核', '核模', '模块']
    """
    if _is_plain(text, language):
        return _WORD.findall(text)
    found: list[str] = []
    for run in _RUN.findall(text):
        if _UNSPACED.match(run):
            found += _pairs(run)
        else:
            found.append(run)
    return found


def spans(text: str, language: str = ENGLISH) -> Iterator[Span]:
    """Spans of the `words` of a text: start and end of each."""
    if _is_plain(text, language):
        for match in _WORD.finditer(text):
            yield match.span()
        return
    for match in _RUN.finditer(text):
        start = match.start()
        if not _UNSPACED.match(match[0]):
            yield match.span()
            continue
        pairs = _pairs(match[0])
        for pair in pairs:
            yield start, start + len(pair)
            start += len(_CLUSTER.match(pair)[0])


def pieces(text: str) -> list[Span]:
    """Spans of a text that together hold all of it but space: what stands between spaces, or single
    characters (with their marks) where words are not written apart.

    Example:
        >>> text = "ls -l, 内核"
        >>> [text[start:end] for start, end in pieces(text)]
        ['ls', '-l,', '内', '核']
    """
    return [found.span() for found in _PIECE.finditer(text)]


def _is_plain(text: str, language: str) -> bool:
    r"""Whether words are simply the matches of `\w+`; marks that stay alone end an English word."""
    if text.isascii():
        return True
    return not (_MARKED_ENGLISH if language == ENGLISH else _MARKED).search(text)


def _pairs(run: str) -> list[str]:
    """The overlapping pairs of characters of a run, or its only one."""
    if _MARK.search(run):
        each = _CLUSTER.findall(run)
        pairs = [one + two for one, two in pairwise(each)]
    else:
        pairs = [run[at : at + 2] for at in range(len(run) - 1)]
    return pairs or [run]


def says(text: str, language: str = ENGLISH) -> float:
    """Number of words in a text; where words are not written apart, two characters are one."""
    text = normal(text)
    return sum(0.5 if _UNSPACED.match(word) else 1.0 for word in words(text, language))


def shortened(text: str, words: int) -> str:
    """A text's first words, at most so many, one space between them; two characters count as a
    word where words are not written apart.

    Example:
        >>> shortened("one two  three", 2), shortened("一二三四五六", 2)
        ('one two', '一二三四')
    """
    text = " ".join(text.split()[:words])
    if not text.isascii():
        for number, found in enumerate(_UNSPACED.finditer(text)):
            if number == 2 * words:
                return text[: found.start()]
    return text


def _ascii_digit(found: regex.Match[str]) -> str:
    return str(unicodedata.decimal(found[0]))


class Terms:
    """Turns texts into the terms that BM25 counts: lower case, words, no stop words, stems.

    Latin letters in a collection of another script are stemmed as English.

    Raises:
        ConfigError: for a language that is not covered.
    """

    def __init__(self, language: str = ENGLISH) -> None:
        import Stemmer
        from bm25s import stopwords

        self.language = known(language)
        own = LANGUAGES[self.language]
        used = [own]
        if self.language != OTHER and own.script != "Latin":
            used.append(LANGUAGES[ENGLISH])
        available = Stemmer.algorithms()
        self._stemmers = [Stemmer.Stemmer(each.name) for each in used if each.name in available]
        # A language without a list needs none: frequent words weigh little anyway.
        lists = {"english": stopwords.STOPWORDS_EN}
        self._stop_words = frozenset(
            word
            for each in used
            for word in lists.get(
                each.name, getattr(stopwords, f"STOPWORDS_{each.name.upper()}", ())
            )
        )
        self._terms: dict[str, str | None] = {}

    def of(self, text: str) -> list[str]:
        """The terms of a text, in its order, repeats kept."""
        terms = self._terms
        found = []
        for word in self._words(text):
            if word not in terms:
                terms[word] = self._term(word)
            if (term := terms[word]) is not None:
                found.append(term)
        return found

    def _words(self, text: str) -> list[str]:
        """The words of a text in one form, as far as it matters in the language."""
        if text.isascii():
            if self.language == "tr":
                text = text.translate(_TURKISH)
            return _WORD.findall(text.lower())
        if self.language == ENGLISH:
            text = normal(text).lower()
        else:
            text = unicodedata.normalize("NFKC", text)
            if self.language in ("fa", "ur"):
                text = text.translate(_PERSIAN)
            if self.language == "tr":
                text = text.translate(_TURKISH)
            text = text.lower()
        if _is_plain(text, self.language):
            found = _WORD.findall(text)
        else:
            found = words(_JOINERS.sub("", _OPTIONAL.sub("", text)), self.language)
        if self.language != ENGLISH and _DIGIT.search(text):
            found = [_DIGIT.sub(_ascii_digit, word) for word in found]
        return found

    def _term(self, word: str) -> str | None:
        if word in self._stop_words:
            return None
        for stemmer in self._stemmers:
            word = stemmer.stemWord(word)
        return word


# --- sentences ---------------------------------------------------------------------------------

_SHORT = """
e.g i.e cf vs al approx resp mr mrs ms dr prof fig figs eq
z.b d.h u.a o.ä bzw ca nr vgl p.ex p.ej sr sra es bijv d.w.z o.a т.е т.к напр см
"""
_ABBREVIATIONS = frozenset(_SHORT.split())
_END = regex.compile(
    r"(?P<latin>[.!?]|\u2026)(?=\s)"
    r"|[\u3002\uFF01\uFF1F\uFF0E\uFF61][\u300D\u300F\uFF09\u201D\u2019]*"  # and closing brackets
    r"|[\u0964\u0965\u061F\u06D4\u0589\u1362\u104B\u17D4\u17D5\u0F0D]"
    r"|\n\s*\n"
)
_ELLIPSIS_GOES_ON = regex.compile(r"\s+\p{Ll}")


def sentences(text: str) -> Iterator[Span]:
    """Spans of the sentences of a text; only space lies between two of them.

    They end at a full stop, a question or an exclamation mark of any script, and at an empty line;
    not after an abbreviation, nor at an ellipsis after which the sentence goes on. Thai, which
    writes no full stop, has one sentence per paragraph.

    Example:
        >>> text = "Use e.g. this. 然后重启。完成"
        >>> [text[start:end] for start, end in sentences(text)]
        ['Use e.g. this.', '然后重启。', '完成']
    """
    start = 0
    for found in _END.finditer(text):
        if found["latin"] and _goes_on(text, found.start(), found.end()):
            continue
        if text[start : found.start()].strip():
            yield _trimmed(text, start, found.end())
            start = found.end()
    if text[start:].strip():
        yield _trimmed(text, start, len(text))


def _goes_on(text: str, mark: int, end: int) -> bool:
    """Whether a sentence goes on after a mark."""
    if text[mark] == "\u2026" or text.endswith("..", 0, mark):
        return _ELLIPSIS_GOES_ON.match(text, end) is not None
    if text[mark] != ".":
        return False
    before = text[max(0, mark - 12) : mark].split()
    return bool(before) and before[-1].lstrip("([\"'„«“").lower() in _ABBREVIATIONS


def _trimmed(text: str, start: int, end: int) -> Span:
    """A span without the space around its text."""
    return (
        start + len(text[start:end]) - len(text[start:end].lstrip()),
        start + len(text[start:end].rstrip()),
    )
