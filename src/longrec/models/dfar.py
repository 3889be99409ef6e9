"""DFAR (Lin et al., arXiv 2302.03965): ranks candidates by a history of mixed feedback.

Some events say yes (a purchase, a video watched to its end), others no (a skip). The setting
`negative` names those words of the column "type". With y an event's feedback, E items, L feedback:

    e_u    = E[item_u] + position_u + L[y_u]                          the last `max_length` events
    s      = blocks over e, of factorization-heads attention by pairs of feedback
    g^y    = mean, over the events of feedback y, of further blocks over s at these events alone
    a^y(i) = sum_u softmax_u(MLP^y[W e_u; c; W e_u * c]) e_u          c = E[i] + L[y]
    score^y(i) = MLP^y[E[i]; mean s; g^y; a^y(i)]

once for each of positive and negative feedback; candidates are ranked by the positive score. It is
trained by the loss that is set over the positive targets, by -log(1 - sigmoid(score^+)) of negative
ones, and by

    bpr * -log sigmoid(+-(score^+ - score^-))       + for a positive target, - for a negative one
    disentangling * (cos(g^+, g^-) + cos(a^+, a^-))

which are to become small. As in the paper a sample is a prefix and the event after it. h after an
event is made of events up to it, so that each event may be a target as well (targets=next), and a
target's own feedback is read by the loss alone. Without negative words the column is not read, all
feedback is positive, and nothing of the negative side is there.

The released code has the two cosines with the other sign, which makes interests more alike, and
faults in its attention (ops/factorization_heads.py); it takes the BPR term of the two attentions'
last scores instead of the two towers', and divides each interest's sum by all events. The paper's
definition is built here, in blocks of this package's frame, with one hidden layer in each MLP where
the code has two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Annotated, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, logsigmoid, pad, relu, softplus

from longrec.core.bounds import MOST, Bounds
from longrec.core.errors import UsageError
from longrec.core.format import listed
from longrec.mixers import Context
from longrec.mixers.factorization_heads import POSITIVE, READ, FactorizationHeadsMixer
from longrec.models.common.blocks import FeedForwardBlock
from longrec.models.common.config import WIDEST, Targets, WindowedConfig
from longrec.models.common.registry import register_model
from longrec.models.common.windowed import WindowedModel

TYPE = "type"
UNKNOWN = -2
"""Code of a negative word before training has told its own."""


@dataclass(frozen=True)
class DFARConfig(WindowedConfig):
    """Settings of DFAR.

    Attributes
    ----------
    max_length : most events that are read; h takes dim + 1 numbers for each.
    negative : words of the column "type" that are negative feedback, with commas between; none: all
        feedback is positive, and types are not read.
    attention_dim : width inside the network that attends from a candidate to the events.
    tower_dim : width inside the network that scores a candidate.
    bpr : what it counts that the two scores of a target are in the order of its feedback.
    disentangling : what each cosine of positive and negative interests counts.
    """

    max_length: Annotated[int, Bounds(ge=1, le=1024)] = 20
    targets: Targets = "last"  # with "next" a history's last `max_length` events alone would train
    negative: str = ""
    attention_dim: Annotated[int, Bounds(ge=1, le=WIDEST)] = 16
    tower_dim: Annotated[int, Bounds(ge=1, le=WIDEST)] = 64
    bpr: Annotated[float, Bounds(ge=0, le=MOST)] = 1e-5
    disentangling: Annotated[float, Bounds(ge=0, le=MOST)] = 0.03

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.heads % 2:
            raise ValueError(
                f"heads is {self.heads}; it must be even: half of them stand for either feedback"
            )
        if self.negative and not self.words:
            raise ValueError(
                f"negative is {self.negative!r}; it must name a word of the column {TYPE!r}, or "
                "several with commas between"
            )

    @property
    def words(self) -> tuple[str, ...]:
        """The negative words."""
        return tuple(filter(None, (word.strip() for word in self.negative.split(","))))


class Read(NamedTuple):
    """What h holds of n users.

    events : (n, L, D), the last ones, e; real : (n, L) bool; mean : (n, D), of s; interests : of
    each feedback, the positive first, (n, D).
    """

    events: Tensor
    real: Tensor
    mean: Tensor
    interests: Sequence[Tensor]


@register_model("dfar")
class DFAR(WindowedModel):
    """Candidates are scored against the last events, by attention that tells yes from no."""

    paper = "arXiv 2302.03965"
    paper_settings = MappingProxyType(
        {
            **{"dim": 32, "ffn_dim": 32, "layers": 1, "dropout": 0.0, "loss": "bce"},
            **{"negatives": 9, "batch_tokens": 4000, "learning_rate": 1e-4, "weight_decay": 1e-6},
        }
    )
    streams_as = "sasrec-rotary"
    columns_by_setting = MappingProxyType({TYPE: "negative=WORD,WORD"})
    config_class = DFARConfig
    negative_codes: Tensor

    def __init__(self, config: DFARConfig, n_items: int) -> None:
        def mixers() -> list[FactorizationHeadsMixer]:
            return [FactorizationHeadsMixer(config.dim, config.heads) for _ in range(config.layers)]

        super().__init__(config, n_items, mixers())
        self.scale = 1.0  # items, positions and feedback are added as they are
        self.reads_columns = (TYPE,) if config.words else ()
        codes = torch.full((len(config.words),), UNKNOWN)
        self.register_buffer("negative_codes", codes)
        kinds = 2 if config.words else 1
        # Row 0 of feedback is positive; so are the first interest, attention and tower.
        self.feedback = nn.Parameter(torch.randn(kinds, config.dim) * 0.02)
        self.interests = nn.ModuleList(
            nn.ModuleList(FeedForwardBlock(mixer, config) for mixer in mixers())
            for _ in range(kinds)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(config.dim) for _ in range(kinds))
        self.attentions = nn.ModuleList(
            TargetAttention(config.dim, config.attention_dim) for _ in range(kinds)
        )
        self.towers = nn.ModuleList(Tower(config.dim, config.tower_dim) for _ in range(kinds))
        self.width = config.max_length * (config.dim + 1) + (1 + kinds) * config.dim

    def learn_words(self, words: Mapping[str, Sequence[str] | None]) -> None:
        if not self.config.words:
            return
        known = list(words[TYPE] or ())
        missing = [word for word in self.config.words if word not in known]
        if missing:
            raise UsageError(
                f"negative is {self.config.negative!r}, and no event of this log has the type "
                f"{listed(map(repr, missing))}: name types of {listed(map(repr, known))}, or "
                "leave negative out, which takes all of them as positive"
            )
        codes = [known.index(word) for word in self.config.words]
        self.negative_codes.copy_(torch.tensor(codes))

    def positive(self, types: Tensor | None, like: Tensor) -> Tensor:
        """Which events are positive, bool as `like`: all but those of negative types."""
        if types is None or not self.config.words:
            return torch.ones_like(like, dtype=torch.bool)
        return (types[..., None] != self.negative_codes).all(-1)

    def embed(self, items: Tensor, ctx: Context, masked: Tensor | None = None) -> Tensor:
        negative = ~self.positive(ctx.types, items)
        return super().embed(items, ctx, masked) + self.feedback[negative.long()]

    def hidden(
        self, items: Tensor, ctx: Context | None = None, masked: Tensor | None = None
    ) -> Tensor:
        ctx = ctx or Context()
        positive, mask = self.positive(ctx.types, items), ctx.mask(items)
        real = torch.ones_like(positive) if mask is None else mask
        e = self.dropout(self.embed(items, ctx))
        told = {POSITIVE: positive} if self.config.words else {}
        s = self.norm(self.through_blocks(e, replace(ctx, columns=told)))
        parts = [_mean_so_far(s, real)]
        for kind, (blocks, norm) in enumerate(zip(self.interests, self.norms, strict=True)):
            own = real & (positive if kind == 0 else ~positive)
            x = s * own[..., None]
            for block in cast(nn.ModuleList, blocks):
                x = block(x, replace(ctx, columns={READ: own}))
            parts.append(_mean_so_far(norm(x), own))
        length = self.config.max_length
        window = pad(e * real[..., None], (0, 0, length - 1, 0)).unfold(1, length, 1)
        flags = pad(real.to(e.dtype), (length - 1, 0)).unfold(1, length, 1)
        return torch.cat([window.mT.flatten(2), flags, *parts], -1)

    def read(self, h: Tensor) -> Read:
        """h (n, W) in its parts."""
        length, dim = self.config.max_length, self.config.dim
        start = length * dim
        events, flags = h[:, :start], h[:, start : start + length]
        mean, *interests = h[:, start + length :].split(dim, 1)
        return Read(events.unflatten(1, (length, dim)), flags > 0, mean, interests)

    def score_pairs(self, h: Tensor, items: Tensor) -> Tensor:
        return self.judge(self.read(h), self.item_vectors(items), 0)[0]

    def judge(self, read: Read, vectors: Tensor, kind: int) -> tuple[Tensor, Tensor]:
        """Scores (n, C) of candidates (n, C, D) by one feedback, and what they attend to."""
        attended = self.attentions[kind](read.events, read.real, vectors + self.feedback[kind])
        user = torch.cat([read.mean, read.interests[kind]], 1)
        return self.towers[kind](user, vectors, attended), attended

    def wanted(self, columns: Mapping[str, Tensor]) -> Tensor | None:
        return self.positive(columns[TYPE], columns[TYPE]) if self.config.words else None

    def own_loss(self, h: Tensor, targets: Tensor, columns: Mapping[str, Tensor]) -> Tensor | None:
        wanted = self.wanted(columns)
        if wanted is None:
            return None
        read, vectors = self.read(h), self.item_vectors(targets[:, None])
        (yes, of_yes), (no, of_no) = (self.judge(read, vectors, kind) for kind in (0, 1))
        yes, no = yes[:, 0], no[:, 0]
        sign = wanted.to(h) * 2 - 1
        alike = cosine_similarity(read.interests[0], read.interests[1])
        alike = alike + cosine_similarity(of_yes[:, 0], of_no[:, 0])
        terms: Tensor = (
            softplus(yes) * ~wanted
            - self.config.bpr * logsigmoid(sign * (yes - no))
            + self.config.disentangling * alike
        )
        return terms.mean()


class TargetAttention(nn.Module):
    """What candidates read of a user's events: a softmax of a network's values over the events.

    The network's first layer reads [W e; c; W e * c] in parts, so that what depends on the event
    alone or the candidate alone is not computed for every pair. (With W e - c besides, as in DIN,
    it would be the same layer.)
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.keys = nn.Linear(dim, dim, bias=False)
        self.of_event, self.of_candidate = (
            nn.Linear(dim, hidden),
            nn.Linear(dim, hidden, bias=False),
        )
        self.of_both = nn.Parameter(torch.randn(hidden, dim) * dim**-0.5)
        self.last = nn.Linear(hidden, 1, bias=False)

    def forward(self, events: Tensor, real: Tensor, candidates: Tensor) -> Tensor:
        """events (n, L, D), real (n, L), candidates (n, C, D) -> (n, C, D)."""
        keys = self.keys(events)
        by_event = (keys[:, :, None] * self.of_both).flatten(1, 2)  # (n, L A, D)
        both = (candidates @ by_event.mT).unflatten(-1, (events.shape[1], -1))
        inner = relu(
            both + self.of_event(keys)[:, None] + self.of_candidate(candidates)[:, :, None]
        )
        values = self.last(inner)[..., 0]
        # A user without events reads empty places, which hold 0.
        real = real | ~real.any(1, keepdim=True)
        share = values.masked_fill(~real[:, None], -torch.inf).softmax(-1)
        attended: Tensor = share @ events
        return attended


class Tower(nn.Module):
    """The score of candidates by a user: a network of [candidate; what it attends to; user]."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.of_user, self.of_pair = (
            nn.Linear(2 * dim, hidden),
            nn.Linear(2 * dim, hidden, bias=False),
        )
        self.last = nn.Linear(hidden, 1)

    def forward(self, user: Tensor, candidates: Tensor, attended: Tensor) -> Tensor:
        """user (n, 2 D), candidates and attended (n, C, D) -> (n, C)."""
        pairs = self.of_pair(torch.cat([candidates, attended], -1))
        scores: Tensor = self.last(relu(pairs + self.of_user(user)[:, None]))[..., 0]
        return scores


def _mean_so_far(x: Tensor, read: Tensor) -> Tensor:
    """The mean of those of x (B, T, D) up to each event that are read; 0 where none is."""
    count = read.cumsum(1).clamp_min(1)[..., None]
    return (x * read[..., None]).cumsum(1) / count.to(x)
