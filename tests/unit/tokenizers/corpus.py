"""Text in many scripts: what the tokenizers of these tests are trained on, and what prompts and completions are of."""

from __future__ import annotations

from tests.unit.tiny import SENTENCES

SCRIPTS = (
    "Le maire de Paris est né à Besançon ; il a dîné chez sa sœur.",
    "Die Bürgermeisterin heißt Jürgen-Müller, größer als je zuvor.",
    "Мэр Москвы — Ной Кларк, родился 15 марта 1987 года.",
    "Ο δήμαρχος της Αθήνας είναι ο Γιώργος Παπαδόπουλος.",
    "東京の市長は誰ですか。グレース・ミラーです。",
    "北京的市长是伊森·帕克，他出生于1987年。",
    "서울의 시장은 누구입니까? 올리비아 휴즈입니다.",
    "عمدة القاهرة هي إيما هوارد، وُلدت عام ١٩٨٧.",
    "मुंबई की महापौर ओलिविया ह्यूजेस हैं।",
    "นายกเทศมนตรีกรุงเทพฯ คือ เลียม เบนเน็ตต์",
    "Nga\u0303o e\u0301 composto: o\u0302 e\u0300 sem NFC.",
    "def mayor(city):\n    return  {'Tokyo':  1}\n\n\n\tpass\t# two  spaces   three",
    "Great 👍🏽 party 🎉🎉 family 👨‍👩‍👧 flags 🇫🇷🇯🇵",
)

CORPUS = [*SENTENCES, *SCRIPTS] * 8
