"""The engine: plan → run → update, over token ids. Synchronous, one caller at a time; no text, no sockets."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Seq

import numpy as np

from penstock.config import SchedulerConfig, WatermarkConfig
from penstock.engine.admission import ModelFacts, allowed_mask, cache_room, check_prompt, max_tokens
from penstock.engine.batch import BatchBuilder, Entry
from penstock.engine.beam import BeamSearch, read
from penstock.engine.blocks import BlockPool
from penstock.engine.masks import Masks, nothing_left
from penstock.engine.pooling import Pooling, check_fits, make_pooling
from penstock.engine.prefix_cache import PrefixCache
from penstock.engine.repetition import STOP_REASON, repeats
from penstock.engine.scheduler import Plan, Scheduler
from penstock.engine.scores import score, score_named
from penstock.engine.sequence import Prefix, Request, Sequence, SequenceUpdate, Status, TokenScore
from penstock.engine.stats import EngineStats
from penstock.errors import ExecutionError, OverloadedError, RequestError, nearest
from penstock.executors.base import Executor
from penstock.types import F32, Batch, Constraint, FinishReason, RequestMetrics, SamplingParams, StepOutput
from penstock.watermark import Watermark

logger = logging.getLogger(__name__)
NOT_FINITE = "the model gave logits that are not finite for this request"
NOTHING_LEFT = (
    "nothing that is allowed can follow: loosen what the answer must be, allowed_token_ids, bad_words or min_tokens"
)


class Engine:
    """Serves requests with one executor.

    ``add`` queues a request, ``step`` runs one step and returns what each sequence got, ``cancel`` frees a request or
    one of its answers at any moment between steps.
    """

    def __init__(
        self,
        executor: Executor,
        facts: ModelFacts,
        scheduler: SchedulerConfig,
        *,
        prefix_caching: bool = True,
        seed: int = 0,
        watermark: WatermarkConfig | None = None,
    ) -> None:
        limits = executor.limits
        self.executor = executor
        self.facts = facts
        self.config = scheduler
        self.block_size = limits.block_size
        self.pool = BlockPool(limits.num_blocks)
        self.cache = PrefixCache(self.pool, self.block_size, prefix_caching and not facts.whole_prompts)
        self.scheduler = Scheduler(scheduler, self.pool, self.cache, self.block_size, facts.whole_prompts)
        max_blocks = min(limits.num_blocks, -(-facts.max_model_len // self.block_size))
        self.masks = Masks(-(-facts.vocab_size // 32))
        mark = watermark or WatermarkConfig()
        self.watermark = Watermark(facts.vocab_size, mark.watermark_gamma, mark.watermark_delta)
        self.builder = BatchBuilder(
            scheduler.max_num_seqs, max_blocks, self.block_size, self.masks, self.watermark, facts.positions
        )
        self.scheduler.on_seat = self.builder.seat
        self.requests: dict[str, Request] = {}
        self._stats = EngineStats(blocks_total=limits.num_blocks)
        self._random = random.Random(seed)
        self._order = 0
        self._pinned = self._serial = 0
        self.prefixes: dict[str, Prefix] = {}
        self.on_forget: Callable[[Request], None] = lambda request: None

    def add_prefix(self, name: str, rows: int, shifts: bool = False) -> Prefix:
        """Pin blocks for ``rows`` cache rows that requests may name; the caller has their content written.

        Raises ``RequestError`` if the name is taken, ``OverloadedError`` if too few blocks are free now.
        """
        if name in self.prefixes:
            raise RequestError(f"prefix '{name}' is loaded already", "name")
        count = -(-rows // self.block_size)
        if rows < 1 or count > self.pool.free:
            raise OverloadedError(f"prefix '{name}' needs {count} KV blocks and {self.pool.free} are free")
        self._serial += 1
        blocks = tuple(self.pool.allocate() for _ in range(count))
        prefix = Prefix(name, rows, blocks, shifts, self._serial)
        self._pinned += count
        self.prefixes[name] = prefix
        return prefix

    def remove_prefix(self, name: str) -> None:
        """Unpin a prefix. Requests that use it keep its blocks until they end. Unknown names are ignored."""
        prefix = self.prefixes.pop(name, None)
        if prefix is not None:
            self._pinned -= len(prefix.blocks)
            for block in prefix.blocks:
                self.pool.release(block)

    def add(
        self,
        request_id: str,
        prompt: Seq[int],
        params: SamplingParams,
        *,
        cache_salt: str = "",
        adapter: int = 0,
        adapter_serial: int = 0,
        prefix: str | None = None,
        constraint: Constraint | None = None,
        bad_words: tuple[tuple[int, ...], ...] = (),
        priority: int = 0,
        client: str = "",
        pooling: str | None = None,
        arrival_time: float | None = None,
    ) -> Request:
        """Queue a request. Raises ``RequestError`` at once, with the numbers, if it can never be served.

        ``client``: whose it is; clients that wait take turns. ``pooling`` (``mean``, ``last``): compute the prompt
        only and give its vector. ``bad_words``: sequences of tokens that an answer does not have.
        """
        facts = self.facts
        tokens = check_prompt(prompt, facts)
        self._check_queue(request_id, len(tokens))
        mask = allowed_mask(params, facts)
        held = self._prefix(prefix)
        lead = held.rows if held is not None else 0
        beams = (params.best_of or params.n) if params.use_beam_search else 1
        blocks = self.pool.total - self._pinned + lead // self.block_size
        room = cache_room(blocks, self.block_size, lead, len(tokens), beams)
        pool = make_pooling(pooling)
        if pool is not None:
            check_fits(len(tokens), facts.max_model_len - lead, room)
        limit = max_tokens(len(tokens) - (pool is not None), params, facts.max_model_len - lead, room)
        self._order += 1
        request = Request(
            request_id=request_id,
            prompt=tokens,
            params=params,
            max_tokens=limit,
            eos_ids=frozenset() if params.ignore_eos else facts.eos_ids,
            # ids beyond the vocabulary (another model's) can never be drawn
            stop_ids=frozenset(t for t in params.stop_token_ids if t < facts.vocab_size),
            seed=self._random.getrandbits(64) if params.seed is None else params.seed % (1 << 64),
            metrics=RequestMetrics(arrival_time=time.monotonic() if arrival_time is None else arrival_time),
            cache_salt=cache_salt,
            adapter=adapter,
            adapter_serial=adapter_serial,
            prefix=held,
            length_key=facts.length_key(len(tokens) + (lead if held is not None and held.shifts else 0)),
            priority=priority,
            order=self._order,
            mask=mask,
            bad_words=bad_words,
            boundary=facts.boundary(tokens) if facts.boundary else 0,
            client=client,
            pooling=pool,
        )
        self._enqueue(request, constraint)
        return request

    def _check_queue(self, request_id: str, tokens: int) -> None:
        if request_id in self.requests:
            raise RequestError(f"request id '{request_id}' is already in use", "request_id")
        if self.scheduler.num_waiting >= self.config.max_waiting:
            raise OverloadedError(f"the queue is full ({self.config.max_waiting} requests wait)")
        waiting = self.scheduler.waiting_tokens
        if waiting and waiting + tokens > self.config.max_queued_tokens:
            raise OverloadedError(f"the queue is full ({waiting} tokens wait): try again, or raise max_queued_tokens")

    def _enqueue(self, request: Request, constraint: Constraint | None) -> None:
        """Its first sequence, waiting; the others are forked when the prompt is computed."""
        params, held = request.params, request.prefix
        if request.width > self.config.max_num_seqs:
            raise RequestError(
                f"n={request.width} answers at once are more than max_num_seqs={self.config.max_num_seqs}", "n"
            )
        if params.use_beam_search:
            request.beams = BeamSearch(request, constraint is not None)
            request.num_logprobs = max(request.beams.count, params.logprobs or 0)
        for block in held.blocks if held is not None else ():
            self.pool.share(block)  # kept until the request ends, even if the prefix is unloaded or it is preempted
        first = Sequence(request, 0, list(request.prompt), constraint=constraint)
        if request.beams is None and (
            params.repetition_penalty != 1.0 or params.presence_penalty or params.frequency_penalty
        ):
            first.counts = {}
        request.sequences.append(first)
        self.requests[request.request_id] = request
        self.scheduler.add(first)

    def step(self) -> list[SequenceUpdate]:
        """Plan, run and account for one step. A step that fails ends its requests with an error, not the engine."""
        if (length := self.facts.recompute_past) is not None:
            self.scheduler.start_over(length, self.facts.length_key(length + 1))
        plan = self.scheduler.plan()
        if not plan.items:
            return []
        batch, entries = self.builder.build(plan)
        try:
            output = self.executor.run(batch)
        except Exception as error:
            logger.exception("step failed")
            return self._fail(plan, error)
        finally:
            if batch.sampling is not None and batch.sampling.ready is not None:
                batch.sampling.ready()  # nobody touches a constraint while its mask is made
        updates = self._update(plan, batch, entries, output)
        self._stats.count_step(plan.num_tokens)
        self._stats.last_step_time = time.monotonic()
        return updates

    def cancel(self, request_id: str, reason: FinishReason = "abort") -> None:
        """Free a request wherever it is. Unknown ids are ignored: it may just have finished."""
        request = self.requests.get(request_id)
        if request is not None:
            for seq in request.sequences:
                self.finish(seq, reason)
            self._forget(request)

    def stop(self, request_id: str, index: int, stop_reason: int | str | None = None) -> None:
        """End one answer that text has decided to stop (a stop string)."""
        request = self.requests.get(request_id)
        if request is not None and index < len(request.sequences):
            self.finish(request.sequences[index], "stop", stop_reason)
            self._forget(request)

    def finish(self, seq: Sequence, reason: FinishReason, stop_reason: int | str | None = None) -> None:
        if seq.status is not Status.FINISHED:
            self.scheduler.finish(seq)
            seq.finish_reason, seq.stop_reason = reason, stop_reason
            self._stats.finished[reason] = self._stats.finished.get(reason, 0) + 1

    def _prefix(self, name: str | None) -> Prefix | None:
        if name is None:
            return None
        if name not in self.prefixes:
            raise RequestError(f"no prefix '{name}' is loaded{nearest(name, self.prefixes)}", "prefix")
        return self.prefixes[name]

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work

    @property
    def stats(self) -> EngineStats:
        """A snapshot; the same object is updated in place."""
        stats = self._stats
        stats.running = len(self.scheduler.running)
        stats.waiting = self.scheduler.num_waiting
        stats.blocks_used = self.pool.used
        stats.blocks_cached = self.pool.cached
        stats.prefix_queries, stats.prefix_hits = self.cache.queries, self.cache.hits
        stats.preemptions = self.scheduler.preemptions
        return stats

    def _update(self, plan: Plan, batch: Batch, entries: list[Entry], output: StepOutput) -> list[SequenceUpdate]:
        """Count what was computed, append what was drawn, end what is done."""
        now = time.monotonic()
        self._advance(plan)
        updates = [] if output.hidden is None else self._take_hidden(plan, output.hidden)
        tokens = output.token_ids.tolist()
        invalid, finished = output.invalid.tolist(), Status.FINISHED
        for i, entry in enumerate(entries):
            seq = entry.seq
            if entry.prompt_index >= 0:
                if not seq.finished:
                    wanted = seq.request.params.prompt_logprobs or 0
                    seq.request.prompt_scores.append(score(output, i, tokens[i], wanted))
            elif seq.status is finished:
                continue
            elif entry.error is not None or invalid[i]:
                updates += self._end_answer(seq, *self._why(entry, i, batch))
            elif seq.request.beams is not None:
                updates += self._search(seq.request.beams, seq, i, batch, output, now)
            else:
                updates.append(self._append(seq, i, tokens[i], batch, output, now))
        drawn = 0
        for update in updates:
            drawn += len(update.token_ids)
            if update.finish_reason is not None:
                self._forget(update.request)
        self._stats.generation_tokens += drawn
        return updates

    def _take_hidden(self, plan: Plan, hidden: F32) -> list[SequenceUpdate]:
        """Hand their rows to requests that want no tokens, and end those whose prompt has been computed."""
        updates, row = [], 0
        for item in plan.items:
            seq, pooling = item.seq, item.seq.request.pooling
            if pooling is not None and not seq.finished:
                pooling.take(seq.computed - item.count, hidden[row : row + item.count])
                if seq.wanted == 0:
                    updates.append(self._pooled(seq, pooling))
            row += item.count
        return updates

    def _pooled(self, seq: Sequence, pooling: Pooling) -> SequenceUpdate:
        vector = pooling.vector(seq.prompt_len)
        if np.isfinite(vector).all():
            self.finish(seq, "stop")
            return SequenceUpdate(seq.request, seq.index, (), (), "stop", pooled=vector)
        self.finish(seq, "error")
        message = "the model gave hidden states that are not finite for this request"
        return SequenceUpdate(seq.request, seq.index, (), (), "error", None, message)

    def _advance(self, plan: Plan) -> None:
        size = self.block_size
        for item in plan.items:
            seq, count = item.seq, item.count
            before = seq.computed
            seq.computed = after = before + count
            if len(seq.tokens) == seq.prompt_len:
                self._stats.prompt_tokens += count
            if (seq.lead + before) // size != (seq.lead + after) // size:
                self.cache.register(seq, before)
            for follower in item.followers:
                follower.computed, follower.block_names = after, list(seq.block_names)

    def _append(
        self, seq: Sequence, i: int, token: int, batch: Batch, output: StepOutput, now: float
    ) -> SequenceUpdate:
        request = seq.request
        scores: tuple[TokenScore, ...] = ()
        if request.num_logprobs >= 0:
            named = request.params.logprob_token_ids
            scores = (
                score(output, i, token, request.num_logprobs)
                if not named or batch.sampling is None
                else score_named(output, i, token, int(batch.sampling.row[i]), named),
            )
            seq.cumulative_logprob += scores[0].logprob
        seq.append(token)
        if seq.index == 0:
            _clock(request.metrics, now)
        reason: FinishReason | None = None
        stop_reason: int | str | None = None
        if token in request.last_ids or len(seq.tokens) - seq.prompt_len >= request.max_tokens:
            reason, stop_reason = self._ending(seq, token)
        elif request.params.repetition_detection is not None and repeats(seq):
            reason, stop_reason = "repetition", STOP_REASON
        if seq.constraint is not None and reason is None:
            try:
                seq.constraint.accept(token)
            except ExecutionError as error:
                self.finish(seq, "error")
                return SequenceUpdate(request, seq.index, (token,), scores, "error", None, str(error))
        if reason is not None:
            self.finish(seq, reason, stop_reason)
        return SequenceUpdate(request, seq.index, (token,), scores, reason, stop_reason)

    def _search(
        self, search: BeamSearch, seq: Sequence, i: int, batch: Batch, output: StepOutput, now: float
    ) -> list[SequenceUpdate]:
        """What may follow one beam is known. Nothing is given out before the search is over."""
        request = seq.request
        assert batch.sampling is not None
        if not search.take(seq, read(seq, search, output, i, int(batch.sampling.row[i]))):
            return []
        _clock(request.metrics, now)
        try:
            over = search.advance(self.scheduler.adopt)
        except ExecutionError as error:
            return self._end(request, str(error))
        if not over:
            return []
        answers = search.answers()
        if not answers:
            return self._end(request, f"beam search found no answer: {NOTHING_LEFT}", mistake=True)
        for each in request.sequences:
            self.scheduler.finish(each)
        request.num_answers = len(answers)
        for answer in answers:
            self._stats.finished[answer.finish_reason] = self._stats.finished.get(answer.finish_reason, 0) + 1
        return [
            SequenceUpdate(request, index, a.token_ids, a.scores, a.finish_reason, a.stop_reason)
            for index, a in enumerate(answers)
        ]

    def _ending(self, seq: Sequence, token: int) -> tuple[FinishReason | None, int | None]:
        request = seq.request
        if seq.num_output >= request.params.min_tokens:
            if token in request.eos_ids:
                return "stop", None
            if token in request.stop_ids:
                return "stop", token
        if seq.num_output >= request.max_tokens:
            return "length", None
        return None, None

    def _fail(self, plan: Plan, error: Exception) -> list[SequenceUpdate]:
        message = str(error) if isinstance(error, ExecutionError) else f"the step failed: {error}"
        updates = []
        for request in {id(i.seq.request): i.seq.request for i in plan.items}.values():
            updates += self._end(request, message)
            self._forget(request)
        return updates

    def _why(self, entry: Entry, i: int, batch: Batch) -> tuple[str, bool]:
        """Why entry ``i`` has no token, and whether that lies in what was asked."""
        assert batch.sampling is not None
        if entry.error is None and nothing_left(batch.sampling, i, self.facts.vocab_size):
            return NOTHING_LEFT, True
        return entry.error or NOT_FINITE, entry.mistake

    def _end(self, request: Request, message: str, mistake: bool = False) -> list[SequenceUpdate]:
        """End with an error all answers of ``request`` that have not ended, those that are not forked yet included."""
        ended = {seq.index for seq in request.sequences if seq.finished}
        for seq in request.sequences:
            self.finish(seq, "error")
        open_ = [index for index in range(request.num_answers) if index not in ended]
        return [SequenceUpdate(request, index, (), (), "error", None, message, mistake=mistake) for index in open_]

    def _end_answer(self, seq: Sequence, message: str, mistake: bool) -> list[SequenceUpdate]:
        """End one answer with an error; of beams, which are found together, all."""
        if seq.request.beams is not None:
            return self._end(seq.request, message, mistake)
        self.finish(seq, "error")
        return [SequenceUpdate(seq.request, seq.index, (), (), "error", None, message, mistake=mistake)]

    def _forget(self, request: Request) -> None:
        """Drop a request whose answers have all ended."""
        if all(seq.finished for seq in request.sequences) and (
            len(request.sequences) == request.width or request.sequences[0].finish_reason in ("abort", "error")
        ):
            request.metrics.finished_time = request.metrics.finished_time or time.monotonic()
            if self.requests.pop(request.request_id, None) is None:
                return
            for block in request.prefix.blocks if request.prefix is not None else ():
                self.pool.release(block)
            self.on_forget(request)


def _clock(metrics: RequestMetrics, now: float) -> None:
    """The first answer's token came."""
    if metrics.last_token_time is None:
        metrics.first_token_time = now
    else:
        metrics.inter_token_latencies.append(now - metrics.last_token_time)
    metrics.last_token_time = now


def drain(engine: Engine) -> Iterable[SequenceUpdate]:
    """Step until nothing is left to do."""
    while engine.has_work:
        yield from engine.step()
