"""ELASTIC's linear dispatcher attention made causal, with forgetting.

A fixed set of R experts per head compresses the history; every event reads the experts as they
stand after it. ELASTIC (arXiv 2408.09380) publishes it bidirectional; here the expert queries are
static and the running compressions are a state of fixed size. The score of event t for expert j of
a head is bounded by a temperature:

    s_tj = tau_j <e_j, k_t>,  e_j and k_t of unit norm,  tau_j = 12 sigmoid(a_j)

longrec.ops.dispatcher says what experts and events make of the scores (the definition, and the form
for one event); longrec.ops.dispatcher_chunked is the parallel form, and dispatcher_cuda that of
half precision on a GPU.

Forgetting multiplies all earlier weights of expert j by exp(-min(r_j f_t, 1)) at event t, with
f = 1 ("events") or log1p of the time gap ("time"): experts start at half-lives from 3 to 3,000
events, so that one layer holds short-, mid- and lifelong interests. It belongs to the gated slot
attention family (arXiv 2409.07146).
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, pad

from longrec.mixers.base import EMPTY, Context, State, StreamingMixer, register_mixer
from longrec.mixers.short_conv import ShortConvolution
from longrec.ops.clock import NEVER, clock_at, gaps, last_of
from longrec.ops.dispatcher import MIN_WEIGHT, dispatcher_step
from longrec.ops.dispatcher_chunked import LOG2_E, ChunkInputs, dispatcher_by_chunks
from longrec.ops.dispatcher_cuda import dispatcher_by_kernel, kernel_dtype
from longrec.ops.heads import into_heads, out_of_heads
from longrec.ops.sums import LASTING, sum_type

Forgetting = Literal["events", "time", "none"]
MAX_TEMPERATURE = 12.0
MAX_CHUNK = 48
"""exp(12 + 48 * 1) fits float32; with up to 1 forgotten per event, longer chunks are unsafe."""


class DispatcherState(NamedTuple):
    """What the dispatcher keeps of B histories.

    mean : (B, H, R, 2 d), P: per expert the weighted mean of [k', v];
    log_weight : (B, H, R), log z, -inf before the first event; both float64 unless each event
        forgets, else float32 at least;
    convolution : (B, width - 1, D), last inputs;
    time : (B,) int64, time of the last event in seconds (only read when forgetting by time).
    """

    mean: Tensor
    log_weight: Tensor
    convolution: Tensor
    time: Tensor


class ExpertRead(NamedTuple):
    """What T events read from the experts.

    q, y : (H, B, T', d), their queries and what they read, T' >= T in whole chunks; logits :
    (H, B, T', R), what the softmax over experts was taken of, where wanted; state : after them, if
    there was one before.
    """

    q: Tensor
    y: Tensor
    logits: Tensor | None
    state: DispatcherState | None


class Reader(NamedTuple):
    """How one event of B histories reads the past, for `attention`.

    log_share : (B, H, R), log of its attention to each expert over z, the weight of all events in
        that expert;
    memory : (B, H), its attention to a memory bank, 0 without one;
    recalled : (B, H, d), what the bank adds to y.
    """

    log_share: Tensor
    memory: Tensor
    recalled: Tensor


class Attention(NamedTuple):
    """What T events are to a later one, or to the last of them.

    mass : (B, H, T), A with y = sum_u A_u v_u (+ `Reader.recalled`); value : (B, H, T, d), v;
    forgotten : (B, H, R), of what came before them, until the event that reads.
    """

    mass: Tensor
    value: Tensor
    forgotten: Tensor


@register_mixer("dispatcher")
class DispatcherMixer(StreamingMixer):
    """ELASTIC's dispatcher attention made causal, with forgetting.

    Parameters
    ----------
    dim, heads, experts : int
        Width D, heads H (a divisor of D), experts R per head.
    forgetting : {"events", "time", "none"}
        What discounts the past: each event, each event by its time gap, or nothing.
    half_lives : (float, float)
        Shortest and longest half-life at the start, in events (or in units of f).
    time_scale : float
        Seconds by which a time gap is divided before log1p.
    convolution : int
        Width of the short convolution before the projections; 0 switches it off.
    chunk : int
        Events per chunk, at most 48.
    """

    linear = True
    cost = "O(T R D)"
    undecayed = ("temperature", "log_rate")

    def __init__(
        self,
        dim: int,
        heads: int = 2,
        experts: int = 16,
        forgetting: Forgetting = "events",
        half_lives: tuple[float, float] = (3.0, 3000.0),
        time_scale: float = 3600.0,
        convolution: int = 4,
        chunk: int = 32,
    ) -> None:
        super().__init__()
        if not 1 <= chunk <= MAX_CHUNK:
            raise ValueError(f"chunk is {chunk}; it must lie in 1..{MAX_CHUNK}")
        self.heads, self.chunk, self.forgetting = heads, chunk, forgetting
        self.time_scale, self.reads_times = time_scale, forgetting == "time"
        if forgetting != "events":
            self.state_version = 2  # 1 had P and log z in float32
        self.convolution = ShortConvolution(dim, convolution)
        self.inputs = nn.Linear(dim, 4 * dim, bias=False)  # q, k, k', v
        self.output = nn.Linear(dim, dim, bias=False)
        self.experts = nn.Parameter(torch.randn(heads, experts, dim // heads))
        # Temperatures spread over 2..8 in an order that has nothing to do with the half-lives.
        number = torch.arange(heads * experts, dtype=torch.float64).view(experts, heads)
        number = number.t().contiguous()  # fused optimisers mix up strided weights on resuming
        tau = 2 + 6 * (number * (math.sqrt(5) - 1) / 2 % 1)
        self.temperature = nn.Parameter(torch.logit(tau / MAX_TEMPERATURE).float())
        if forgetting != "none":
            short, long = half_lives
            half_life = short * (long / short) ** (number / max(heads * experts - 1, 1))
            self.log_rate = nn.Parameter((math.log(2) / half_life).log().float())

    def initial_state(self, batch: int) -> State:
        heads, experts, width = self.experts.shape
        # An expert that forgets at each event gives the next one a share that float32 can add. One
        # that does not, or hardly (by time, events of the same minutes), gives 1 / t at last.
        dtype = sum_type(self.experts) if self.forgetting == "events" else LASTING
        return DispatcherState(
            self.experts.new_zeros((batch, heads, experts, 2 * width), dtype=dtype),
            self.experts.new_full((batch, heads, experts), -math.inf, dtype=dtype),
            self.convolution.initial_state(batch),
            torch.full((batch,), NEVER, device=self.experts.device),
        )

    def forward(self, x: Tensor, ctx: Context = EMPTY) -> Tensor:
        if not x.shape[1]:
            return x
        return self._project_out(self.read_experts(x, None, ctx).y, x)

    def prefill(self, x: Tensor, state: State, ctx: Context = EMPTY) -> tuple[Tensor, State]:
        if not x.shape[1]:
            return x, state
        read = self.read_experts(x, cast(DispatcherState, state), ctx)
        return self._project_out(read.y, x), cast(DispatcherState, read.state)

    def _project_out(self, y: Tensor, x: Tensor) -> Tensor:
        """The output projection of y (H, B, T', d), as long as x (B, T, D)."""
        return out_of_heads(y.to(x.dtype), self.output.weight)[:, : x.shape[1]]

    def step(self, x: Tensor, state: State, ctx: Context = EMPTY) -> tuple[Tensor, State]:
        read = self.read_experts_step(x, cast(DispatcherState, state), ctx)
        return self.output(read.y.flatten(1).to(x.dtype)), cast(DispatcherState, read.state)

    def read_experts(
        self, x: Tensor, past: DispatcherState | None, ctx: Context, want_logits: bool = False
    ) -> ExpertRead:
        """What the events of x (B, T, D), T >= 1, read from the experts, before the projection out.

        Without a past they are a history's first, and no state is made. Then padding need not be
        told from events: it stands at the end, where real events never see it.
        """
        dtype = None if want_logits else kernel_dtype(x)
        if dtype is not None:
            return self._read_by_kernel(x, past, ctx, dtype)
        events, lengths = x.shape[1], None if past is None else ctx.lengths
        chunks = -(-events // self.chunk)
        size = -(-events // chunks)  # chunks of equal size waste least
        missing = chunks * size - events
        is_real, sums, z = None, None, None
        if past is not None:
            z = past.log_weight.exp().transpose(0, 1)
            sums = past.mean.transpose(0, 1) * z[..., None]
            if missing or lengths is not None:
                place = torch.arange(chunks * size, device=x.device)
                is_real = place < (events if lengths is None else lengths[:, None])
                is_real = is_real.to(sum_type(x))
                is_real = is_real.view(-1, chunks * size)
        padded = pad(x, (0, 0, 0, missing)) if missing else x
        parts = self._project_in(padded, None if past is None else past.convolution)
        q, k, pairs = (part.to(sum_type(x)) for part in parts)
        forget, time = self._forget(x, None if past is None else past.time, lengths, ctx.times)
        inputs = ChunkInputs(
            *(q, k, pairs),
            self._scaled_queries().to(q.dtype) * LOG2_E,
            self._forget_in_chunks(forget.to(q.dtype), size, missing, is_real),
            *(is_real, sums, z),
        )
        y, logits, sums, z = dispatcher_by_chunks(inputs, size, want_logits)
        state = None
        if past is not None and sums is not None and z is not None:
            mean = sums / z.clamp_min(MIN_WEIGHT)[..., None]
            # Rows without events stay at log 0, and must not send its gradient back.
            log_weight = z.masked_fill(z == 0, 1.0).log()
            log_weight = log_weight.masked_fill(z == 0, -math.inf)
            last = self.convolution.state_after(x, past.convolution, lengths)
            state = DispatcherState(mean.transpose(0, 1), log_weight.transpose(0, 1), last, time)
        return ExpertRead(q, y, logits, state)

    def _read_by_kernel(
        self, x: Tensor, past: DispatcherState | None, ctx: Context, dtype: torch.dtype
    ) -> ExpertRead:
        """The same through a CUDA kernel, which computes in `dtype`."""
        lengths = None if past is None else ctx.lengths
        parts = self._project_in(x, None if past is None else past.convolution)
        q, k, pairs = (part.transpose(0, 1) for part in parts)
        before = cast(DispatcherState, self.initial_state(len(x))) if past is None else past
        forget, time = self._forget(x, before.time, lengths, ctx.times)
        with torch.autocast(x.device.type, enabled=False):
            # Whole precision: at a score of 12 bfloat16 is off by .03.
            whole = sum_type(x)
            queries = self._scaled_queries().to(whole)
            scores = normalize(k.to(whole), dim=-1) @ queries.mT
        forget = forget.expand_as(scores)
        if lengths is not None:
            mask = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
            scores = scores.masked_fill(~mask[:, None, :, None], -math.inf)
            forget = forget * mask[:, None, :, None]
        key, value = pairs.chunk(2, dim=-1)
        y, mean, log_weight = dispatcher_by_kernel(
            *(q, key, value, scores, forget),
            *(before.mean.to(whole), before.log_weight.to(whole), dtype),
        )
        state = None
        if past is not None:
            last = self.convolution.state_after(x, past.convolution, lengths)
            mean, log_weight = mean.to(before.mean), log_weight.to(before.mean)
            state = DispatcherState(mean, log_weight, last, time)
        return ExpertRead(parts[0], y.transpose(0, 1), None, state)

    def read_experts_step(self, x: Tensor, past: DispatcherState, ctx: Context) -> ExpertRead:
        """The same for one event x (B, D): q and y (B, H, d), logits (B, H, R)."""
        h, last = self.convolution.step(x, past.convolution)
        q, k, k2, v = (part.unflatten(-1, (self.heads, -1)) for part in self.inputs(h).chunk(4, -1))
        q, k, dtype = q.to(past.mean.dtype), k.to(past.mean.dtype), past.mean.dtype
        times = None if ctx.times is None else ctx.times[:, None]
        forget, time = self._forget(x, past.time, None, times)
        score = self._scores(k[:, :, None])[:, :, 0]
        pair = torch.cat([k2, v], dim=-1).to(dtype)
        y, logits, mean, log_weight = dispatcher_step(
            q, pair, score, forget[:, :, 0].to(dtype), past.mean, past.log_weight
        )
        return ExpertRead(q, y, logits, DispatcherState(mean, log_weight, last, time))

    def reader(self, x: Tensor, state: State, ctx: Context = EMPTY) -> Reader:
        """How the event x (B, D) that follows `state` reads; `ctx.times` is (B,)."""
        read = self.read_experts_step(x, cast(DispatcherState, state), ctx)
        log_weight = cast(DispatcherState, read.state).log_weight
        log_share = cast(Tensor, read.logits).log_softmax(-1) - log_weight
        return Reader(log_share, torch.zeros_like(read.y[..., 0]), torch.zeros_like(read.y))

    def attention(
        self, x: Tensor, state: State, reader: Reader, forgotten: Tensor, ctx: Context = EMPTY
    ) -> Attention:
        """What the events x (B, T, D) that follow `state`, without padding, are to a reader.

        y is linear in the values: A_u = sum_j softmax_j(...) w_uj / z_j, in log space here, since w
        and z alone may leave float32. Over a whole history A sums to the attention to experts.

        Parameters
        ----------
        forgotten : Tensor
            (B, H, R), what each expert forgot after the last of them until the event that reads, 0
            if that is the last of them: to go through a history in windows, begin at its end.
        """
        past = cast(DispatcherState, state)
        parts = self._project_in(x, past.convolution)
        _, k, pairs = (part.transpose(0, 1).to(past.mean.dtype) for part in parts)
        scores, value = self._scores(k), pairs.chunk(2, dim=-1)[1]
        forget = self._forget(x, past.time, None, ctx.times)[0].expand(-1, -1, x.shape[1], -1)
        forget = forget.expand_as(scores).to(scores.dtype)
        # Event u is discounted by what the events after it forget, summed from the end: there the
        # sums are small where weights are not.
        since = torch.cat([forget[:, :, 1:], forgotten[:, :, None]], dim=2)
        since = since.flip(2).cumsum(2).flip(2)
        mass = (reader.log_share[:, :, None] + scores - since).exp().sum(-1)
        return Attention(mass, value, since[:, :, 0] + forget[:, :, 0])

    def _project_in(self, x: Tensor, past: Tensor | None) -> tuple[Tensor, ...]:
        """q, k (H, B, T, d) and [k', v] (H, B, T, 2 d) of x (B, T, D)."""
        width = x.shape[2] // self.heads
        weight = self.inputs.weight.view(4, self.heads, width, -1).transpose(0, 1).flatten(1, 2)
        return into_heads(x, weight, (width, width, 2 * width), self.convolution.kernel, past)

    def _scaled_queries(self) -> Tensor:
        """tau_j e_j: unit expert queries times their temperatures, (H, R, d)."""
        tau = MAX_TEMPERATURE * self.temperature.sigmoid()
        return normalize(self.experts, dim=-1) * tau[..., None]

    def _forget_in_chunks(
        self, forget: Tensor, size: int, missing: int, is_real: Tensor | None
    ) -> Tensor | None:
        """What `_forget` gave, as ChunkInputs have it; padding forgets nothing where it matters."""
        if self.forgetting == "none":
            return None
        forget = forget.transpose(0, 1) * LOG2_E
        if forget.shape[2] > 1:
            forget = pad(forget, (0, 0, 0, missing))
        elif is_real is None:
            forget = forget.expand(-1, -1, size, -1)
        return forget if is_real is None else forget * is_real[None, ..., None]

    def _scores(self, k: Tensor) -> Tensor:
        """s: (B, H, T, d) -> (B, H, T, R), bounded by the temperatures; in the type of k."""
        return normalize(k, dim=-1) @ self._scaled_queries().to(k.dtype).transpose(-1, -2)

    def _forget(
        self, x: Tensor, last: Tensor | None, lengths: Tensor | None, times: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """What each event of x (B, T, D) at times (B, T) forgets, and the last time after it.

        (B, H, T, R) or what broadcasts to it: all events of all histories may forget alike. `last`
        (B,) is the time of the event before, None for none.
        """
        if last is None:
            last = torch.full((len(x),), NEVER, device=x.device)
        if self.forgetting == "none":
            experts = self.experts
            return experts.new_zeros(1, self.heads, 1, experts.shape[1], dtype=sum_type(x)), last
        # Whole precision: half precision has no number for the seconds of a day, nor for a weight
        # that is forgotten over thousands of events.
        rate = self.log_rate.to(sum_type(self.log_rate)).exp()[:, None]
        if self.forgetting == "events":
            return rate.clamp_max(1)[None], last
        if times is None:
            raise ValueError("forgetting by time needs the events' times; use forgetting='events'")
        clock = clock_at(last, times)
        scaled = (gaps(clock).to(rate.dtype) / self.time_scale).log1p()[:, None, :, None]
        return (rate * scaled).clamp_max(1), last_of(clock, lengths)
