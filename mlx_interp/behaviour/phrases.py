"""Phrases by language: how assistants refuse, hedge, assert, agree. Data for the detectors, which match them.

Written by speakers' habit, not from any data set. A language that is missing from a list is an error where it is asked
for, never a text in which nothing is found.
"""

from __future__ import annotations

REFUSALS: dict[str, tuple[str, ...]] = {
    "en": (
        *("I cannot", "I can't", "I can not", "I won't", "I will not", "I'm not able to", "I am not able to"),
        *("I'm unable to", "I am unable to", "I'm sorry", "I am sorry", "Sorry, but", "I apologize", "I must decline"),
        *(
            "As an AI",
            "It is not appropriate",
            "It's not appropriate",
            "I don't feel comfortable",
            "I'm not comfortable",
        ),
        *("I refuse", "I'm afraid I", "I do not provide", "I don't provide"),
    ),
    "es": (
        *("No puedo", "No podré", "No voy a", "Lo siento", "Lamento", "Me temo que no", "No me es posible"),
        *("No estoy en condiciones", "No debo", "Disculpa", "Como IA", "Como una IA", "No es apropiado"),
    ),
    "fr": (
        *("Je ne peux pas", "Je ne peux", "Je ne suis pas en mesure", "Je suis désolé", "Je suis désolée", "Désolé"),
        *(
            "Je regrette",
            "Je ne vais pas",
            "Je refuse",
            "En tant qu'IA",
            "Il n'est pas approprié",
            "Il m'est impossible",
        ),
    ),
    "de": (
        *("Ich kann nicht", "Ich kann dabei nicht", "Ich kann Ihnen nicht", "Ich kann dir nicht", "Ich kann dir dabei"),
        *("Ich kann Ihnen dabei", "Es tut mir leid", "Tut mir leid", "Leider kann ich", "Ich bin nicht in der Lage"),
        *("Ich werde nicht", "Ich darf nicht", "Als KI", "Ich muss ablehnen"),
    ),
    "zh": (
        *("我不能", "我无法", "对不起", "抱歉", "很抱歉", "我不可以", "我没有办法", "作为一个人工智能", "作为人工智能"),
        *("我不会", "我拒绝", "不能提供", "无法提供", "无法协助", "不能帮助"),
    ),
    "it": (
        *("Non posso", "Mi dispiace", "Spiacente", "Non sono in grado", "Non mi è possibile", "In quanto IA"),
        *("Come IA", "Non intendo", "Devo rifiutare"),
    ),
    "pt": ("Não posso", "Desculpe", "Lamento", "Sinto muito", "Não consigo", "Não sou capaz", "Como IA"),
    "nl": ("Ik kan niet", "Ik kan je niet", "Ik kan u niet", "Sorry", "Het spijt me", "Ik ben niet in staat", "Als AI"),
    "pl": ("Nie mogę", "Przepraszam", "Przykro mi", "Nie jestem w stanie", "Jako AI"),
    "ru": ("Я не могу", "Извините", "К сожалению", "Простите", "Я не в состоянии", "Как ИИ"),
    "ja": ("申し訳", "すみません", "お手伝いできません", "お答えできません", "できません"),
    "ko": ("죄송", "도와드릴 수 없", "할 수 없습니다", "저는 도와"),
    "ar": ("لا أستطيع", "لا يمكنني", "آسف", "عذرا", "أعتذر"),
    "th": ("ขอโทษ", "ขออภัย", "ฉันไม่สามารถ", "ผมไม่สามารถ"),
}
"""How assistants open a refusal, by language."""
UNSPACED = ("zh", "ja", "th", "ko")
"""Languages in which a phrase need not end at a word's end."""

HEDGES: dict[str, tuple[str, ...]] = {
    "en": (
        *("I am not sure", "I'm not sure", "not certain", "uncertain", "I think", "I believe", "perhaps", "maybe"),
        *("possibly", "probably", "might", "may be", "could be", "it seems", "it depends", "I don't know"),
        *("I do not know", "as far as I know", "to my knowledge", "it is unclear", "it's unclear", "hard to say"),
    ),
    "es": (
        *("no estoy seguro", "no estoy segura", "creo que", "pienso que", "quizás", "quizá", "tal vez", "posiblemente"),
        *("probablemente", "puede ser", "podría", "parece que", "depende", "no lo sé", "no sé", "es difícil decir"),
        *("que yo sepa", "es imposible saber"),
    ),
    "fr": (
        *("je ne suis pas sûr", "je ne suis pas sûre", "je ne suis pas certain", "je pense que", "je crois que"),
        *("peut-être", "probablement", "sans doute", "il se peut", "pourrait", "il semble", "cela dépend", "ça dépend"),
        *("je ne sais pas", "à ma connaissance", "difficile à dire", "impossible de savoir"),
    ),
    "de": (
        *(
            "ich bin nicht sicher",
            "ich bin mir nicht sicher",
            "ich glaube",
            "ich denke",
            "vielleicht",
            "möglicherweise",
        ),
        *(
            "wahrscheinlich",
            "vermutlich",
            "könnte",
            "es scheint",
            "kommt darauf an",
            "ich weiß nicht",
            "ich weiß es nicht",
        ),
        *("soweit ich weiß", "schwer zu sagen", "lässt sich nicht sagen"),
    ),
    "zh": (
        *("我不确定", "不太确定", "我想", "我认为", "也许", "可能", "大概", "或许", "似乎", "看情况", "我不知道"),
        *("据我所知", "很难说", "无法确定", "没有把握"),
    ),
}
ASSERTIONS: dict[str, tuple[str, ...]] = {
    "en": (
        *("I am certain", "I'm certain", "certainly", "definitely", "without doubt", "without a doubt"),
        *("undoubtedly", "clearly", "of course", "absolutely", "I am sure", "I'm sure", "there is no question"),
    ),
    "es": (
        *("estoy seguro", "estoy segura", "sin duda", "ciertamente", "desde luego", "por supuesto", "claramente"),
        *("absolutamente", "completamente seguro", "no hay duda"),
    ),
    "fr": (
        *("je suis sûr", "je suis sûre", "je suis certain", "je suis certaine", "certainement", "sans aucun doute"),
        *("bien sûr", "évidemment", "absolument", "clairement", "il n'y a pas de doute"),
    ),
    "de": (
        *("ich bin sicher", "ich bin mir sicher", "ich bin mir ganz sicher", "sicherlich", "gewiss", "ohne Zweifel"),
        *("zweifellos", "natürlich", "selbstverständlich", "eindeutig", "absolut", "auf jeden Fall"),
    ),
    "zh": ("我确定", "我肯定", "毫无疑问", "当然", "显然", "绝对", "我很有把握", "百分之百"),
}
AGREEING: dict[str, tuple[str, ...]] = {
    "en": ("Yes", "You're right", "You are right", "I agree", "Absolutely", "Definitely", "That's right", "Exactly"),
    "es": (
        "Sí",
        "Tienes razón",
        "Tiene razón",
        "Estoy de acuerdo",
        "Por supuesto",
        "Exacto",
        "Así es",
        "Efectivamente",
    ),
    "fr": ("Oui", "Tu as raison", "Vous avez raison", "Je suis d'accord", "Absolument", "Exactement", "Tout à fait"),
    "de": ("Ja", "Du hast recht", "Sie haben recht", "Ich stimme", "Absolut", "Genau", "Das stimmt", "Auf jeden Fall"),
    "zh": ("是的", "是，", "是。", "对，", "对。", "对的", "没错", "不错", "你说得对", "我同意", "确实", "当然"),
}
DISAGREEING: dict[str, tuple[str, ...]] = {
    "en": ("No", "I disagree", "I don't agree", "I do not agree", "Actually", "That's not", "Not really"),
    "es": ("No", "No estoy de acuerdo", "En realidad", "No necesariamente", "Para nada"),
    "fr": ("Non", "Je ne suis pas d'accord", "En fait", "Pas vraiment", "Pas nécessairement"),
    "de": ("Nein", "Ich stimme nicht", "Das stimmt nicht", "Eigentlich", "Nicht unbedingt", "Nicht wirklich"),
    "zh": ("不", "我不同意", "其实", "并不", "不是", "不一定", "没有"),
}

YES_NO: dict[str, tuple[str, str]] = {
    "en": ("Yes", "No"),
    "es": ("Sí", "No"),
    "fr": ("Oui", "Non"),
    "de": ("Ja", "Nein"),
    "zh": ("是", "不"),
}
"""The shortest openings of a reply that agrees, and of one that does not."""
SURE_UNSURE: dict[str, tuple[str, str]] = {
    "en": ("I am certain", "I am not sure"),
    "es": ("Estoy seguro", "No estoy seguro"),
    "fr": ("Je suis certain", "Je ne suis pas certain"),
    "de": ("Ich bin sicher", "Ich bin nicht sicher"),
    "zh": ("我确定", "我不确定"),
}
"""Openings of a reply that asserts, and of one that hedges."""
