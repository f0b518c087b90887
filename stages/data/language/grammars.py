"""Sentences that small grammars write from a seed: the language data that needs no download.

Four tasks in the shape of published ones: acceptability (CoLA), entailment (RTE), sentiment (SST-2) and questions
(SQuAD 2.0). Samples come in minimal pairs: the same words in another order, and another label. What sees only which
words there are, and how often, is right about exactly one of each two.

All orders of the same words belong to one split, which a checksum of the words decides: no test sentence, premise or
context stands in the training split, in whatever order. The same arguments give the same bits on any CPU, and sample
`i` of a split does not depend on how many are asked for.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import Any, NamedTuple, TypeVar

import numpy as np

from stages.data.errors import DataError
from stages.data.exact import stream
from stages.data.language import Answer, Corpus, Questions, Texts
from stages.data.settings import Grammar

_TEST_SHARE = 4  # one of so many sets of words is the test split's
_PATIENCE = 2000  # sentences in a row that are not new
_TASKS = ("acceptability", "entailment", "sentiment", "questions")

Item = TypeVar("Item")


class _Sample(NamedTuple):
    """One of a pair; `label` is the class, or None where `answer` is what is asked for."""

    first: str
    second: str
    label: int | None = None
    answer: Answer | None = None


_Pair = tuple[_Sample, _Sample]


def generate(settings: Grammar) -> Corpus[Any]:
    """Writes a training and a test split.

    Returns:
        Texts (acceptability: 1 is acceptable; entailment: 0 is entailment; sentiment: 1 is positive), or questions of
        which half have no answer. The two of a pair stand side by side and are one group.

    Raises:
        DataError: a count is odd, or more is asked for than the grammar has.
    """
    for name in ("train", "test"):
        if getattr(settings, name) % 2:
            raise DataError(
                f"{settings.source}: {name} is {getattr(settings, name)}, expected an even number: samples are in pairs"
            )
    write, class_names, metrics = {
        "acceptability": (_acceptability, ("unacceptable", "acceptable"), ("matthews",)),
        "entailment": (_entailment, ("entailment", "not_entailment"), ("accuracy",)),
        "sentiment": (_sentiment, ("negative", "positive"), ("accuracy",)),
        "questions": (_questions, (), ()),
    }[settings.source]
    splits = [
        _split(list(_pairs(write, settings, is_test, num // 2)), f"{settings.source} {name} {{}}".format)
        for is_test, name, num in ((False, "train", settings.train), (True, "test", settings.test))
    ]
    return Corpus(
        train=splits[0],
        test=splits[1],
        class_names=class_names,
        metrics=metrics,
        source=f"generated sentences ({settings.source})",
        licence="MIT, as this repository",
    )


def _pairs(
    write: Callable[[np.random.Generator, int], _Pair | None], settings: Grammar, is_test: bool, num: int
) -> Iterator[_Pair]:
    """Pairs of one split, no two samples of which are equal."""
    random = stream(settings.seed, _TASKS.index(settings.source), int(is_test))
    seen: set[tuple[str, str]] = set()
    missed = 0
    while num:
        pair = write(random, settings.clauses)
        turned = _below(random, 2)
        if pair is None or _is_test(pair[0].first) != is_test or any(sample[:2] in seen for sample in pair):
            missed += 1
            if missed > _PATIENCE:
                raise DataError(
                    f"{settings.source}: {len(seen)} samples of a split are all that {settings.clauses} clauses have; "
                    "ask for fewer, or raise clauses"
                )
            continue
        missed = 0
        seen.update(sample[:2] for sample in pair)
        yield (pair[1], pair[0]) if turned else pair
        num -= 1


def _is_test(text: str) -> bool:
    return zlib.crc32(" ".join(sorted(text.split())).encode()) % _TEST_SHARE == 0


def _split(pairs: list[_Pair], place: Callable[[int], str]) -> Any:
    samples = [sample for pair in pairs for sample in pair]
    groups = np.repeat(np.arange(len(pairs), dtype=np.int64), 2)
    first, second = tuple(sample.first for sample in samples), tuple(sample.second for sample in samples)
    labels = [sample.label for sample in samples if sample.label is not None]
    if labels:
        return Texts(first, second if any(second) else (), np.array(labels, np.int64), groups, place)
    answers = tuple(() if sample.answer is None else (sample.answer,) for sample in samples)
    return Questions(first, second, answers, tuple(place(row) for row in range(len(samples))), groups, place)


def _below(random: np.random.Generator, num: int) -> int:
    # Of the generator's methods only the raw uniform numbers are the same over NumPy's versions.
    return int(random.random() * num)


def _one(random: np.random.Generator, options: Sequence[Item]) -> Item:
    return options[_below(random, len(options))]


def _some(random: np.random.Generator, options: Sequence[Item], num: int) -> list[Item]:
    """Distinct ones, in random order."""
    left = list(options)
    return [left.pop(_below(random, len(left))) for _ in range(num)]


def _swapped(items: Sequence[Item], first: int, second: int) -> list[Item]:
    found = list(items)
    found[first], found[second] = found[second], found[first]
    return found


def _words(text: str) -> list[str]:
    return text.split()


# What agrees with a noun has three forms: of one man, of one woman, of several.
_MEN = _words("king/kings boy/boys man/men uncle/uncles prince/princes monk/monks waiter/waiters actor/actors")
_WOMEN = _words(
    "queen/queens girl/girls woman/women aunt/aunts princess/princesses nun/nuns waitress/waitresses actress/actresses"
)
_PEOPLE = [entry.split("/")[0] for entry in _MEN + _WOMEN]
_NOUNS = [(entry.split("/"), sex) for sex, entries in enumerate((_MEN, _WOMEN)) for entry in entries]
_REFLEXIVE = ("himself", "herself", "themselves")
_COPULA = ("is", "is", "are")
# Base form and past.
_TRANSITIVE = [
    (past.removesuffix("d" if past in ("admired", "praised", "blamed") else "ed"), past)
    for past in _words("admired praised blamed visited helped followed trusted thanked")
]
_INTRANSITIVE = _words("sing laugh sleep wait smile dance work leave")
_ADJECTIVES = _words("tired happy hungry famous lonely clever")
_PREPOSITIONS = _words("near behind beside with")


class _Form(NamedTuple):
    """A word that agrees with a noun, by the noun's number in its sentence."""

    noun: int
    forms: tuple[str, str, str]


class _Agreement:
    """Builds a sentence whose verbs and reflexives agree with nouns; keeps count of its nouns."""

    def __init__(self, random: np.random.Generator) -> None:
        self.random, self.nouns = random, 0

    def sentence(self, clauses: int) -> list[Any]:
        left = 1 + _below(self.random, clauses)
        front: list[Any] = []
        kind = _below(self.random, 4) if left > 1 else 3
        if kind == 0:
            front, left = ["when", *self.clause(0), ","], left - 1
        elif kind == 1:
            front, left = ["the", self.noun(), "said", "that"], left - 1
        return [*front, *self.clause(left), "."]

    def clause(self, modifiers: int) -> list[Any]:
        """A subject with so many modifiers inside each other, and what it does."""
        subject = self.noun()
        words = ["the", subject, *self.modifier(subject, modifiers)]
        kind = _below(self.random, 4)
        if kind == 0:
            return [*words, _Form(subject, _COPULA), _one(self.random, _ADJECTIVES)]
        if kind == 1:
            return [*words, self.verb(_INTRANSITIVE, subject)]
        return [*words, _one(self.random, _TRANSITIVE)[1], _Form(subject, _REFLEXIVE)]

    def modifier(self, head: int, left: int) -> list[Any]:
        if not left:
            return []
        kind, noun = _below(self.random, 4), self.noun()
        inner = ["the", noun, *self.modifier(noun, left - 1)]
        if kind == 0:
            return [_one(self.random, _PREPOSITIONS), *inner]
        verb = self.verb([entry[0] for entry in _TRANSITIVE], head if kind == 1 else noun)
        return ["that", verb, *inner] if kind == 1 else ["that", *inner, verb]

    def noun(self) -> int:
        self.nouns += 1
        return self.nouns - 1

    def verb(self, verbs: list[str], noun: int) -> _Form:
        verb = _one(self.random, verbs)
        return _Form(noun, (f"{verb}s", f"{verb}s", verb))


def _acceptability(random: np.random.Generator, clauses: int) -> _Pair | None:
    """Agreement of verbs and reflexives over what stands between, with two nouns exchanged; or an island."""
    if _below(random, 3) == 0:
        return _island(random, clauses)
    agreement = _Agreement(random)
    words = agreement.sentence(clauses)
    nouns = []
    for forms, sex in _some(random, _NOUNS, agreement.nouns):
        several = _below(random, 2)
        nouns.append((forms[several], 2 if several else sex))

    def forms_of(found: list) -> list[str]:
        return [word.forms[found[word.noun][1]] for word in words if isinstance(word, _Form)]

    exchanged = [_swapped(nouns, *two) for two in combinations(range(len(nouns)), 2)]
    wrong = [found for found in exchanged if forms_of(found) != forms_of(nouns)]
    if not wrong:
        return None

    def text(found: list) -> str:
        kept = iter(forms_of(nouns))
        return " ".join(
            found[word][0] if isinstance(word, int) else next(kept) if isinstance(word, _Form) else word
            for word in words
        )

    return _Sample(text(nouns), "", 1), _Sample(text(_one(random, wrong)), "", 0)


# A question about something in an island, a phrase out of which nothing can be asked (Ross 1967), and the same words
# with the gap outside: adjunct, relative clause, subject, coordination, whether-clause, clause of a noun.
_ISLANDS = (
    ("who did {a} {v} before {b} {p} {c} ?", "who did {a} {v} {c} before {b} {p} ?"),
    ("who did {a} that {p} {c} {v} ?", "who did {a} that {p} {v} {c} ?"),
    ("who did the friend of {c} {v} ?", "who did the friend of {v} {c} ?"),
    ("who did {a} and {c} {v} ?", "who did {a} and {v} {c} ?"),
    ("who did {a} ask whether {b} {p} {c} ?", "who did {a} ask {c} whether {b} {p} ?"),
    ("who did {a} tell the story that {b} {p} {c} ?", "who did {a} tell {c} the story that {b} {p} ?"),
    ("who did {d} say that {a} {p} before {b} {q} {c} ?", "who did {d} say that {a} {p} {c} before {b} {q} ?"),
    ("who did {d} say that {a} that {p} {c} {q} ?", "who did {d} say that {a} that {p} {q} {c} ?"),
)


def _island(random: np.random.Generator, clauses: int) -> _Pair:
    good, bad = _one(random, _ISLANDS[: None if clauses > 1 else 6])
    people = [f"the {noun}" for noun in _some(random, _PEOPLE, 5)]
    if clauses > 1 and _below(random, 2):
        number = _below(random, 4)
        people[number] += f" {_one(random, _PREPOSITIONS)} {people[4]}"
    verbs = _some(random, _TRANSITIVE, 3)
    words = dict(zip("abcdvpq", [*people[:4], verbs[0][0], verbs[1][1], verbs[2][1]], strict=True))
    return _Sample(good.format(**words), "", 1), _Sample(bad.format(**words), "", 0)


# Clauses of a premise, and what they say: who did (p, q) what to whom. Those that name the one who does it first, which
# are more frequent, and the others; in either the first two say nothing but one thing.
_STRAIGHT = (
    ("{a} {p} {b}", "apb"),
    ("it was {a} that {p} {b}", "apb"),
    ("{a} that {p} {b} {q} {c}", "apb aqc"),
    ("{a} {p} {b} that {q} {c}", "apb bqc"),
)
_TURNED = (
    ("{b} was {p} by {a}", "apb"),
    ("it was {b} that {a} {p}", "apb"),
    ("{a} that {b} {p} {q} {c}", "bpa aqc"),
    ("{a} that was {p} by {b} {q} {c}", "bpa aqc"),
    ("{a} {p} {b} that {c} {q}", "apb cqb"),
)
# What may stand before a clause, and whether it is said to be so.
_CLAIMS = (
    ("", True),
    ("it is true that ", True),
    ("the judge knew that ", True),
    ("the judge noticed that ", True),
    ("it is false that ", False),
    ("the judge hoped that ", False),
    ("the judge doubted that ", False),
)
_Fact = tuple[str, str, str]


def _entailment(random: np.random.Generator, clauses: int) -> _Pair | None:
    """Who did what to whom, in one plain clause or in one of several, some of which are only hoped or denied."""
    num = 1 + _below(random, clauses)
    claims = [_one(random, _CLAIMS if num > 1 else _CLAIMS[:1]) for _ in range(num)]
    # What a relative clause says is so even where the sentence around it is denied, or is it? Plain ones there.
    plain = clauses == 1 or not all(so for _, so in claims)
    kinds = [_STRAIGHT if _below(random, 3) else _TURNED for _ in range(num)]
    forms = [_one(random, kind[:2] if plain else kind) for kind in kinds]
    cast = [f"the {noun}" for noun in _some(random, _PEOPLE, 2 + num)]
    sizes = [3 if "{c}" in template else 2 for template, _ in forms]
    names = [name for size in sizes for name in _some(random, cast, size)]
    verbs = [[verb[1] for verb in _some(random, _TRANSITIVE[:5], 2)] for _ in range(num)]

    def told(names: list[str], claims: list[tuple[str, bool]]) -> tuple[str, set[_Fact]]:
        text, facts, rest = [], set(), iter(names)
        for (template, said), size, own, (before, so) in zip(forms, sizes, verbs, claims, strict=True):
            words = dict(zip("abc", [next(rest) for _ in range(size)], strict=False)) | {"p": own[0], "q": own[1]}
            text.append(f"{before}{template.format(**words)} .")
            facts |= {(words[x], words[verb], words[y]) for x, verb, y in said.split()} if so else set()
        return " ".join(text), facts

    premise, facts = told(names, claims)
    if not facts:
        return None
    fact = _one(random, sorted(facts))
    exchanges = [(_swapped(names, *two), claims) for two in combinations(range(len(names)), 2)]
    exchanges += [(names, _swapped(claims, *two)) for two in combinations(range(num), 2)]
    for exchange in _some(random, exchanges, len(exchanges)):
        other, found = told(*exchange)
        if fact not in found and all(x != y for x, _, y in found):
            who, verb, whom = fact
            is_active = clauses == 1 or _below(random, 4)
            hypothesis = f"{who} {verb} {whom} ." if is_active else f"{whom} was {verb} by {who} ."
            return _Sample(premise, hypothesis, 0), _Sample(other, hypothesis, 1)
    return None


_ASPECTS = _words("plot acting music ending dialogue cast pacing camera script humour")
_PRAISE = _words("great charming funny moving clever fresh brilliant tender")
_BLAME = _words("dull awful clumsy boring shallow stale tedious bland")
_NEGATIONS = ("not", "never", "hardly")
_OTHERS = _words("critics friends neighbours reviewers")
# How clauses are joined, and which of them the sentence is about.
_CONTRASTS = (
    (("{0} .", 0),),
    (
        ("{0} but {1} .", 1), ("{0} , yet {1} .", 1), ("although {0} , {1} .", 1), ("while {0} , {1} .", 1),
        ("{0} although {1} .", 0), ("{0} even though {1} .", 0),
    ),
    (
        ("although {0} , {1} even though {2} .", 1), ("{0} and {1} but {2} .", 2), ("although {0} and {1} , {2} .", 2),
        ("{0} although {1} and {2} .", 0), ("{0} , but although {1} , {2} .", 2), ("{0} , yet while {1} , {2} .", 2),
    ),
)  # fmt: skip


class _Judgement(NamedTuple):
    """A clause about one aspect: how many times it is negated, what it is called, and what others call it."""

    negations: int
    word: str
    others: str


def _sentiment(random: np.random.Generator, clauses: int) -> _Pair | None:
    """Judgements of which one decides; negation turns it, and what others say does not count."""
    template, main = _one(random, _CONTRASTS[_below(random, clauses)])
    num = template.count("{")
    aspects, negation = _some(random, _ASPECTS, num), _one(random, _NEGATIONS)
    voices = [_one(random, _OTHERS) if num == 1 or _below(random, 3) == 0 else "" for _ in range(num)]
    found = [
        _Judgement(_below(random, 2), *(_one(random, (_PRAISE, _BLAME)[_below(random, 2)]) for _ in range(2)))
        for _ in range(num)
    ]

    def text(judgements: list[_Judgement]) -> str:
        shown = []
        for aspect, voice, judgement in zip(aspects, voices, judgements, strict=True):
            said = f" that {voice} called {judgement.others}" if voice else ""
            shown.append(f"the {aspect}{said} was {f'{negation} ' * judgement.negations}{judgement.word}")
        return template.format(*shown)

    def label(judgements: list[_Judgement]) -> int:
        return int((judgements[main].word in _PRAISE) ^ (judgements[main].negations == 1))

    changed = []
    for other in range(num):
        one, two = found[main], found[other]
        if other != main:
            changed.append({main: one._replace(word=two.word), other: two._replace(word=one.word)})
            changed.append({main: one._replace(negations=two.negations), other: two._replace(negations=one.negations)})
        if voices[other]:
            own = {main: one._replace(word=two.others)}
            changed.append({main: own[main], other: (own.get(other, two))._replace(others=one.word)})
    candidates = [[change.get(number, item) for number, item in enumerate(found)] for change in changed]
    candidates = [item for item in candidates if label(item) != label(found)]
    if not candidates:
        return None
    return _Sample(text(found), "", label(found)), _Sample(text(other := _one(random, candidates)), "", label(other))


_PLACES = _words("garden castle forest market tower harbour")
_TOLD = ("{a} {p} {b} in {l} .", "{b} was {p} by {a} in {l} .", "in {l} {a} {p} {b} .", "in {l} {b} was {p} by {a} .")
# Questions, the fields that they give (who, verb, whom, place) and the field that they ask for.
_ASKED = (
    ("who {p} {b} in {l} ?", "pbl", "a"),
    ("who was {b} {p} by ?", "pb", "a"),
    ("who {p} {b} ?", "pb", "a"),
    ("who did {a} {v} in {l} ?", "apl", "b"),
    ("who did {a} {v} ?", "ap", "b"),
    ("who was {p} by {a} ?", "ap", "b"),
    ("where did {a} {v} {b} ?", "apb", "l"),
    ("where was {b} {p} by {a} ?", "apb", "l"),
)


def _questions(random: np.random.Generator, clauses: int) -> _Pair | None:
    """A fact, or several one after the other, and a question about one; two words exchanged leave it no answer."""
    num = clauses
    cast = [f"the {noun}" for noun in _some(random, _PEOPLE, num + 1)]
    verbs = _some(random, _TRANSITIVE, num)
    places = [f"the {place}" for place in _some(random, _PLACES, num)]
    told = [_one(random, _TOLD) for _ in range(num)]
    base = {past: form for form, past in verbs}
    facts = []
    for _ in range(num):
        who, whom = _some(random, cast, 2)
        facts.append({"a": who, "p": _one(random, verbs)[1], "b": whom, "l": _one(random, places)})
    template, given, asked = _one(random, _ASKED)
    meant = _below(random, num)
    question = template.format(**facts[meant], v=base[facts[meant]["p"]])

    def answered(facts: list[dict[str, str]]) -> list[int]:
        return [number for number, fact in enumerate(facts) if all(fact[key] == wanted[key] for key in given)]

    wanted = facts[meant]
    if answered(facts) != [meant] or any(fact["a"] == fact["b"] for fact in facts):
        return None
    sentences = [form.format(**fact) for form, fact in zip(told, facts, strict=True)]
    before = " ".join([*sentences[:meant], ""])
    answer = Answer(wanted[asked], len(before) + sentences[meant].index(wanted[asked]))
    places_of = [(number, key) for number in range(num) for key in "apbl"]
    exchanges = list(combinations(places_of, 2))
    for (one, key), (two, other) in _some(random, exchanges, len(exchanges)):
        # Words of one kind only: people, verbs or places.
        if not {key, other} <= {"a", "b"} and key != other:
            continue
        found = [dict(fact) for fact in facts]
        found[one][key], found[two][other] = facts[two][other], facts[one][key]
        if not answered(found) and all(fact["a"] != fact["b"] for fact in found):
            unanswered = " ".join(form.format(**fact) for form, fact in zip(told, found, strict=True))
            return _Sample(" ".join(sentences), question, answer=answer), _Sample(unanswered, question)
    return None
