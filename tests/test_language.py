"""Words, sentences and languages: English as it always was, and others as people write them."""

from __future__ import annotations

import inspect
import re
import unicodedata

import numpy as np
import pytest
import Stemmer
from bm25s.stopwords import STOPWORDS_EN

from limbeck.errors import ConfigError
from limbeck.language import (
    LANGUAGES,
    Terms,
    guess,
    known,
    normal,
    says,
    sentences,
    shortened,
    spans,
    words,
)
from limbeck.search import BM25

PASSAGES = {
    "zh": [
        "用户可以在设置中更改系统语言。",
        "按下打印键即可打印文档。",
        "内核模块在启动时加载。",
        "要删除文件,请将其拖到回收站。",
    ],
    "ja": [
        "設定からシステムの言語を変更できます。",
        "印刷ボタンを押すと文書を印刷します。",
        "カーネルモジュールは起動時に読み込まれる。",
        "ファイルを削除するには、ごみ箱に移動します。",
    ],
    "ko": [
        "설정에서 시스템 언어를 바꿀 수 있습니다.",
        "인쇄 단추를 누르면 문서를 인쇄합니다.",
        "커널 모듈은 시작할 때 불러옵니다.",
        "파일을 지우려면 휴지통으로 옮기세요.",
    ],
    "th": [
        "คุณสามารถเปลี่ยนภาษาของระบบได้ในการตั้งค่า",
        "กดปุ่มพิมพ์เพื่อพิมพ์เอกสาร",
        "โมดูลเคอร์เนลถูกโหลดเมื่อเริ่มระบบ",
        "หากต้องการลบไฟล์ ให้ย้ายไปที่ถังขยะ",
    ],
    "hi": [
        "आप सेटिंग में जाकर सिस्टम की भाषा बदल सकते हैं।",
        "दस्तावेज़ छापने के लिए मुद्रण बटन दबाएँ।",
        "कर्नेल मॉड्यूल प्रारंभ के समय लोड होता है।",
        "फ़ाइल हटाने के लिए उसे रद्दी में डालें।",
    ],
    "ar": [
        "يُمكِنُكَ تَغيير لُغة النظام من الإعدادات.",
        "اضغط على زر الطباعة لطباعة المستند.",
        "تُحمَّل وحدات النواة عند الإقلاع.",
        "لحذف الملفات انقلها إلى سلة المهملات.",
    ],
    "de": [
        "In den Einstellungen wird die Sprache des Systems geändert.",
        "Die Taste druckt alle Dokumente auf dem Drucker, der gewählt ist.",
        "Module des Kernels werden mit dem Start geladen.",
        "Dateien werden gelöscht, wenn sie im Papierkorb sind.",
    ],
    "ru": [
        "Язык системы можно изменить в настройках.",
        "Нажмите на кнопку, и документы будут напечатаны на принтере.",
        "Модули ядра загружаются при запуске системы.",
        "Файлы удаляются из корзины по запросу.",
    ],
    "fr": [
        "La langue du système se change dans les préférences.",
        "Le bouton imprime les documents sur l'imprimante qui est choisie.",
        "Les modules du noyau sont chargés au démarrage.",
        "Les fichiers supprimés sont dans la corbeille.",
    ],
    "tr": [
        "Sistem dili ayarlar bölümünde değiştirilir ve bu hemen geçerli olur.",
        "Yazdır düğmesi belgeleri yazıcıya gönderir ve bir kopya çıkarır.",
        "Çekirdek modülleri başlangıçta yüklenir.",
        "DOSYALARI silmek için çöp kutusuna taşıyın ya da bu tuşa basın.",
    ],
}
QUERIES = {
    "zh": {"更改语言": 0, "打印": 1, "内核": 2, "怎么删除文件": 3},
    "ja": {"言語の変更": 0, "印刷": 1, "ｶｰﾈﾙ": 2, "ファイル削除": 3},
    "ko": {"언어": 0, "문서를 인쇄": 1, "커널 모듈이": 2, "파일 휴지통": 3},
    "th": {"เปลี่ยนภาษา": 0, "พิมพ์": 1, "เคอร์เนล": 2, "ลบไฟล์": 3},
    "hi": {"भाषा बदलें": 0, "मुद्रण": 1, "मॉड्यूल": 2, "फ़ाइलें": 3},
    "ar": {"تغيير اللغة": 0, "طباعة": 1, "النواة": 2, "المَلَفّات": 3},
    "de": {"Sprachen ändern": 0, "Dokument": 1, "Kernel laden": 2, "Datei löschen": 3},
    "ru": {"изменение языка": 0, "печать документа": 1, "загрузка ядра": 2, "удалить файл": 3},
    "fr": {"préférence": 0, "imprimer un document": 1, "module du noyau": 2, "fichier supprimé": 3},
    "tr": {"dilini değiştirmek": 0, "belge": 1, "çekirdeğin modülü": 2, "dosyalar": 3},
}


@pytest.mark.parametrize("code", PASSAGES)
def test_what_is_meant_is_found_in_every_language(code: str) -> None:
    """Composed, decomposed and in full-width capitals: the same passage comes first."""
    index = BM25.build(PASSAGES[code], language=code)
    for query, position in QUERIES[code].items():
        for form in ("NFC", "NFD", "NFKC", "NFKD"):
            asked = unicodedata.normalize(form, query)
            assert index.search([asked], k=1)[0].tolist() == [[position]], (query, form)
    decomposed = [unicodedata.normalize("NFD", text) for text in PASSAGES[code]]
    apart = BM25.build(decomposed, language=code)
    np.testing.assert_array_equal(
        apart.search(list(QUERIES[code]), 4)[0], index.search(list(QUERIES[code]), 4)[0]
    )


@pytest.mark.parametrize("code", PASSAGES)
def test_the_language_is_told_by_its_texts(code: str) -> None:
    found = guess(PASSAGES[code], list(QUERIES[code]))
    assert found.code == code
    assert "script" in found.why


def test_english_is_what_it_always_was() -> None:
    """Today's terms on some thousand lines of documentation, and on what its authors paste."""
    stemmer = Stemmer.Stemmer("english")
    texts = [text for name in np.__all__ if (text := inspect.getdoc(getattr(np, name, None)))]
    texts += ["naïve café Ångström", "x\u0304 and \u03b2-catenin", "it\u2019s 3.14 µm²", "İstanbul"]
    assert len(texts) > 400
    terms = Terms("en")
    for text in texts:
        found = re.findall(r"\w+", text.lower())
        expected = [stemmer.stemWord(word) for word in found if word not in STOPWORDS_EN]
        assert terms.of(text) == expected
    assert guess(texts).code == "en"


def test_code_names_and_little_evidence_are_english() -> None:
    code = ["ls -la | grep de", "sed -i s/la/le/ file.es", "for i in *.de; do un tar; done"]
    assert guess(code).code == "en"
    assert guess(code, ["list the files that are not in it"]).code == "en"
    assert guess([]).code == guess(["", "42 + 1"]).code == "en"
    assert guess(["Zürich", "naïve"]).code == "en"
    assert guess(["Zürich", "São Tomé", "Łódź"] * 50).code == "und"
    assert guess(["Владимир", "Ольга"]).code == "und"


def test_a_mixed_collection_says_so() -> None:
    found = guess([*["The list of files is in it."] * 8, *PASSAGES["zh"][:2]])
    assert found.code == "en"
    assert found.is_mixed
    assert not guess(["The list of files is in it."]).is_mixed


def test_scripts_are_told_apart_within_a_text() -> None:
    text = "Linux 内核的 Files を読む ไฟล์"
    for code in ("en", "zh", "ja"):
        terms = Terms(code).of(text)
        assert {"linux", "内核", "核的", "读む".replace("读", "読"), "file"} <= set(terms)
    mixed = BM25.build(["内核 module loading", "die Häuser 用户"], language="zh")
    assert mixed.search(["loads 内核模块", "用户"], k=1)[0].tolist() == [[0], [1]]


@pytest.mark.parametrize(
    ("code", "one", "other"),
    [
        ("fr", "cafe\u0301", "café"),
        ("ja", "ｶﾀｶﾅ ＡＢＣ", "カタカナ abc"),
        ("ar", "كِتَابٌ", "كتاب"),
        ("ar", "كـــتاب ٢٠٢٤", "كتاب 2024"),
        ("he", "שָׁלוֹם", "שלום"),
        ("fa", "كتاب می\u200cخواهم", "کتاب می خواهم"),
        ("tr", "IŞIK İZMİR", "ışık izmir"),
        ("de", "STRASSE", "Straße"),
        ("hi", "क\u200d्षेत्र", "क्षेत्र"),
    ],
)
def test_equal_words_have_equal_terms(code: str, one: str, other: str) -> None:
    assert Terms(code).of(one) == Terms(code).of(other) != []


def test_marks_stay_in_their_word() -> None:
    for word in ("हिन्दी", "தமிழ்", "বাংলা", "שָׁלוֹם", "كِتَابٌ", "ẹ́dá"):
        assert words(normal(word), "und") == [normal(word)]
    assert words("ที่นี่", "th") == ["ที่นี่"]  # two characters with their marks


@pytest.mark.parametrize("code", ["en", *PASSAGES])
def test_spans_are_where_the_words_stand(code: str) -> None:
    for text in ["It's a café", "x", "", *PASSAGES.get(code, []), *PASSAGES["th"], "中"]:
        text = normal(text)
        assert [text[start:end] for start, end in spans(text, code)] == words(text, code)


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("See e.g. this one. And that.", "See e.g. this one."),
        ("Wait... what? Yes.", "Wait... what?"),
        ("Wait... What? Yes.", "Wait..."),
        ("Version 1.2 is out! Get it.", "Version 1.2 is out!"),
        ("Das ist z.B. hier. Dort nicht.", "Das ist z.B. hier."),
        ("第一句。第二句。", "第一句。"),
        ("「終わり。」次の文。", "「終わり。」"),
        ("पहला वाक्य है। दूसरा।", "पहला वाक्य है।"),
        ("هل هذا صحيح؟ نعم.", "هل هذا صحيح؟"),
        ("یہ پہلا ہے۔ دوسرا۔", "یہ پہلا ہے۔"),
        ("Заголовок\n\nТекст без точки", "Заголовок"),
        ("no end", "no end"),
    ],
)
def test_sentences_end_where_people_end_them(text: str, first: str) -> None:
    found = [text[start:end] for start, end in sentences(text)]
    assert found[0] == first
    assert "".join("".join(found).split()) == "".join(text.split())  # nothing is lost


def test_lengths_count_what_is_written_without_spaces() -> None:
    assert says("two words") == 2
    assert says("如何列出", "zh") == 1.5
    assert says("größer", "de") == 1
    assert shortened("a b c", 2) == "a b"
    assert shortened("一二三四五 六", 2) == "一二三四"


def test_names_and_regions_are_understood_and_others_refused() -> None:
    assert [known(name) for name in ("en", "English", "zh-TW", "pt_BR", "nb", "und")] == [
        *("en", "en", "zh", "pt", "no", "und")
    ]
    with pytest.raises(ConfigError, match=r"'germn' is not covered\. Did you mean 'german'\?"):
        known("germn")
    with pytest.raises(ConfigError, match=r"Use auto, or one of: ar \(arabic\)"):
        Terms("klingon")


def test_every_language_makes_terms_and_has_a_name_of_its_own() -> None:
    assert len({each.name for each in LANGUAGES.values()}) == len(LANGUAGES)
    for code in LANGUAGES:
        assert Terms(code).of("Limbeck 7")
