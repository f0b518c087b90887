"""A transformer that grows its feed-forward layer while it learns a small language.

    python text_encoder.py                    half a minute on one core
    python text_encoder.py --batches 100      a trial run

In this language a verb's ending depends on the verb and on its subject, by a table without rules, and a clause with
other nouns stands between the two: "the birds that the king heard know-". The words alone do not tell which of the
nouns is the subject; their order does. The table has 384 entries, and it is in feed-forward layers that such things are
kept (Geva et al. 2021, arXiv:2012.14913): the four units that this one has at first are too few.
"""

from __future__ import annotations

import argparse
import random

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dnm import Budget, Morphogenesis, Policy

NOUNS = ["bird", "boy", "cat", "dog", "farmer", "girl", "king", "queen"]
NOUNS += [noun + "s" for noun in NOUNS]
VERBS = [
    "ask", "become", "begin", "bring", "call", "come", "feel", "find", "get", "give", "go", "help", "keep", "know",
    "leave", "make", "play", "run", "say", "see", "show", "take", "tell", "think",
]  # fmt: skip
ENDINGS = ("-a", "-e", "-o", "-u")
WORDS = ["<pad>", "?", "the", "that", "near", "saw", "heard", *NOUNS, *VERBS]
LENGTH, BATCH_SIZE, LEARNING_RATE = 16, 64, 0.005

GROWING = Policy(enable_aggressive_growth=True, bottleneck_threshold=0.0)  # however little it promises
FIXED = Policy(event_times=())


def sentence(draw: random.Random) -> list[str]:
    """A verb, its subject in second place, and one or three other nouns; as many of the nouns are plural as are not."""
    numbers = ["", "s"] * draw.choice((1, 2))
    draw.shuffle(numbers)
    first, second, *others = [draw.choice([noun for noun in NOUNS if noun.endswith("s") == bool(n)]) for n in numbers]
    near = [word for noun in others for word in ("near", "the", noun)]
    return ["?", "the", first, "that", "the", second, *near, draw.choice(("saw", "heard")), draw.choice(VERBS)]


def sentences(num: int, seed: int) -> tuple[Tensor, Tensor]:
    """Sentences as numbers of words, padded with 0, `num x LENGTH`; and the endings of their verbs, `num`."""
    table = random.Random(0)
    endings = {(verb, noun): table.randrange(len(ENDINGS)) for verb in VERBS for noun in NOUNS}
    known = {word: number for number, word in enumerate(WORDS)}
    draw = random.Random(seed)
    made = [sentence(draw) for _ in range(num)]
    numbers = [[known[word] for word in words] + [0] * (LENGTH - len(words)) for words in made]
    return torch.tensor(numbers), torch.tensor([endings[words[-1], words[2]] for words in made])


class Classifier(nn.Module):
    """One layer of torch's own transformer; the ending is read off at the first word."""

    def __init__(self, width: int = 24, inner: int = 4) -> None:
        super().__init__()
        self.words = nn.Embedding(len(WORDS), width)
        self.places = nn.Parameter(0.1 * torch.randn(LENGTH, width))
        self.layer = nn.TransformerEncoderLayer(width, 2, inner, dropout=0.0, batch_first=True, norm_first=True)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, len(ENDINGS))

    def forward(self, words: Tensor) -> Tensor:
        """Scores of the endings, `num x 4`."""
        found = self.layer(self.words(words) + self.places, src_key_padding_mask=words == 0)
        return self.head(self.norm(found[:, 0]))


@torch.no_grad()
def accuracy(model: nn.Module, words: Tensor, endings: Tensor) -> float:
    """Share of the sentences whose ending is the right one."""
    model.eval()
    right = (model(words).argmax(1) == endings).float().mean().item()
    model.train()
    return right


def train(policy: Policy, num_batches: int) -> Morphogenesis:
    """Trains the small network, lets it grow as the policy allows, and prints what happens."""
    words, endings = sentences(50_000, seed=1)
    held_out = sentences(2_000, seed=2)
    torch.manual_seed(0)
    model = Classifier()
    optimizer = torch.optim.AdamW(model.parameters())
    probe, targets = words[:256], endings[:256]
    engine = Morphogenesis(
        model,
        optimizer,
        probe,
        lambda: cross_entropy(model(probe), targets),
        labels=targets,
        budget=Budget(steps=num_batches),
        policy=policy,
    )
    while engine.position < 1.0:
        rows = torch.randint(len(words), (BATCH_SIZE,))
        rate = LEARNING_RATE * min(1.0, engine.position / 0.02, (1.0 - engine.position) / 0.4)
        optimizer.param_groups[0]["lr"] = rate * engine.learning_rate_factor()
        loss = cross_entropy(model(words[rows]), endings[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        event = engine.after_step(loss, BATCH_SIZE)
        if event is not None:
            edits = ", ".join(f"{row.operator} {row.place}" for row in event.rows if row.taken) or "no edit"
            # An edit changes no output: this is the accuracy before it, too.
            print(f"step {event.step}, accuracy {accuracy(model, *held_out):.1%}: {edits}; {event.status}")
    size = sum(parameter.numel() for parameter in model.parameters())
    print(f"at the end: accuracy {accuracy(model, *held_out):.1%}, {size:,} parameters")
    return engine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=2400, metavar="N", help="training steps")
    num_batches = parser.parse_args().batches
    print("growing")
    engine = train(GROWING, num_batches)
    print("the start network, for as many steps")
    train(FIXED, num_batches)
    for event in [event for event in engine.events if event.entries][-1:]:
        print(event.table())


if __name__ == "__main__":
    main()
