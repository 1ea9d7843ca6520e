"""Which tokens run in the next step. One counter per sequence, one budget per step, no tensors.

Order: sequences that decode, then those with more to compute (oldest first), then new ones in ``WaitingQueue``'s order.
When blocks run out the youngest running sequence gives all of its back and waits at the front to be recomputed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

from penstock.config import SchedulerConfig
from penstock.engine.blocks import BlockPool
from penstock.engine.prefix_cache import PrefixCache
from penstock.engine.sequence import Request, Sequence, Status
from penstock.engine.waiting import WaitingQueue


@dataclass(slots=True, eq=False)
class Scheduled:
    """``count`` tokens of ``seq`` from ``computed`` on; ``followers`` are answers that draw from the same last row."""

    seq: Sequence
    count: int
    followers: Seq[Sequence] = ()

    @property
    def completes(self) -> bool:
        """Whether the step computes the last known token, so that a next one is drawn."""
        return self.count == self.seq.wanted


@dataclass(slots=True)
class Plan:
    """A step: what runs, which blocks are copied before it, how many tokens it computes."""

    items: list[Scheduled]
    copies: list[tuple[int, int]]
    num_tokens: int


class Scheduler:
    """Holds the waiting and running sequences and the blocks they own.

    ``whole_prompts``: prompts are never split (families whose prompt tokens see each other).
    """

    def __init__(
        self, config: SchedulerConfig, pool: BlockPool, cache: PrefixCache, block_size: int, whole_prompts: bool = False
    ) -> None:
        self.config = config
        self.pool = pool
        self.cache = cache
        self.block_size = block_size
        self.whole_prompts = whole_prompts
        self.running: list[Sequence] = []
        self.preemptions = 0
        self._waiting = WaitingQueue()
        self._seats = list(range(config.max_num_seqs - 1, -1, -1))
        self.on_seat: Callable[[Sequence], None] = lambda seq: None

    @property
    def waiting(self) -> list[Sequence]:
        return self._waiting.ordered()

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def waiting_tokens(self) -> int:
        return self._waiting.tokens

    @property
    def has_work(self) -> bool:
        return bool(self.running or self._waiting)

    def add(self, seq: Sequence) -> None:
        """Queue ``seq`` by priority (lower first), its client's turn, then by arrival of its request, then by index."""
        seq.status = Status.WAITING
        self._waiting.push(seq)

    def finish(self, seq: Sequence) -> None:
        """Free everything ``seq`` holds, wherever it is."""
        if seq.status is Status.RUNNING:
            self.running.remove(seq)
            self._release(seq)
        elif seq.status is Status.WAITING:
            self._waiting.remove(seq)
        seq.status = Status.FINISHED

    def adopt(self, seq: Sequence, parent: Sequence) -> None:
        """Let running ``seq`` give up its tokens and blocks and share its running ``parent``'s."""
        for block in parent.blocks:
            self.pool.share(block)
        for block in reversed(seq.blocks):
            self.pool.release(block)
        seq.become(parent)
        self.on_seat(seq)

    def start_over(self, length: int, key: int) -> None:
        """Have sequences that have just grown past ``length`` positions computed anew, as a prompt of that length is.

        ``key``: their ``length_key`` from then on.
        """
        for seq in list(self.running):
            if seq.status is Status.RUNNING and seq.rotary_len <= length < len(seq.tokens) + seq.shift:
                for each in seq.request.sequences if seq.request.beams is not None else [seq]:
                    each.rotary_len, each.length_key, each.block_names = length + 1, key, []
                self._take_back(seq)

    def plan(self) -> Plan:
        """Choose the next step's tokens and give them blocks. An empty plan means that there is nothing to run."""
        step = _Step(self.config.max_num_batched_tokens, self.config.max_logits_rows)
        others: list[Sequence] = []
        running, size, shared = Status.RUNNING, self.block_size, self.pool.shared
        for seq in self.running[:]:
            known, computed = len(seq.tokens), seq.computed
            if known - computed != 1 or known == seq.prompt_len:
                others.append(seq)
            elif seq.status is running:
                # What _extend does for one token that has room in a block of its own: nearly every call.
                index, blocks = (seq.lead + computed) // size, seq.blocks
                if step.tokens < 1 or step.rows < 1 or index >= len(blocks) or shared(blocks[index]):
                    self._extend(seq, step)
                else:
                    step.items.append(Scheduled(seq, 1))
                    step.tokens -= 1
                    step.rows -= 1
        for seq in others:
            if seq.status is running:
                self._extend(seq, step)
        while self._waiting and not step.preempted and step.tokens > 0:
            if not self._admit(self._waiting.first(), step):
                break
        for item in step.prompts:
            self._fork(item)
        return Plan(step.items, step.copies, self.config.max_num_batched_tokens - step.tokens)

    def _extend(self, seq: Sequence, step: _Step) -> None:
        count = self._chunk(seq, seq.wanted, step, alone=not step.items)
        if count == 0:
            return
        while not self._reserve(seq, count, step.copies):
            self._preempt(max(self.running, key=_age), step)
            if seq.status is not Status.RUNNING:
                return
        step.take(seq, count)

    def _admit(self, seq: Sequence, step: _Step) -> bool:
        """Start ``seq`` if seats, budget and really free blocks allow it.

        All its known tokens must fit, and one block for every running sequence to grow into: else it would soon be
        preempted, or preempt.
        """
        if len(self.running) + self._seats_promised() + _seats_needed(seq) > self.config.max_num_seqs:
            return False
        hit = self.cache.match(seq)
        known = self._behind(seq, hit)
        computed = max(0, len(known) * self.block_size - seq.lead) if hit else 0
        count = self._chunk(seq, len(seq.tokens) - computed, step, alone=not step.items)
        if count == 0:
            return False
        needed = self._blocks_for(seq) - len(known)
        needed += sum(self.pool.is_free(b) for b in known) + (seq.lead % self.block_size > 0 and not hit)
        if needed + len(self.running) > self.pool.free and (self.running or needed > self.pool.free):
            return False
        self._waiting.pop()
        for block in known:
            self.pool.share(block)
        seq.blocks = known
        seq.computed = computed
        seq.status = Status.RUNNING
        self._seat(seq)
        self.running.append(seq)
        if seq.request.cacheable:
            self.cache.count(len(seq.tokens), seq.computed)
        metrics = seq.request.metrics
        if metrics.scheduled_time is None:
            metrics.scheduled_time = time.monotonic()
            metrics.cached_tokens = seq.computed
        self._reserve(seq, count, step.copies)
        step.take(seq, count)
        return True

    def _blocks_for(self, seq: Sequence) -> int:
        """Blocks of all known tokens; a preempted beam search has those of every beam to come behind the prompt."""
        rows, search = seq.lead + len(seq.tokens), seq.request.beams
        if search is None or not search.to_regrow:
            return -(-rows // self.block_size)
        shared, rest = divmod(rows, self.block_size)
        return shared + search.width * -(-(rest + search.to_regrow) // self.block_size)

    def _behind(self, seq: Sequence, hit: list[int]) -> list[int]:
        """``hit`` behind the blocks of the request's prefix. A hit replaces the one that prefix and tokens share."""
        prefix = seq.request.prefix
        if prefix is None:
            return list(hit)
        return [*prefix.blocks[: prefix.rows // self.block_size], *hit] if hit else list(prefix.blocks)

    def _chunk(self, seq: Sequence, wanted: int, step: _Step, alone: bool) -> int:
        """How many of ``wanted`` tokens fit this step's budget of tokens and rows."""
        if self.whole_prompts and wanted > step.tokens and not alone:
            return 0
        count = wanted if self.whole_prompts and alone else min(wanted, step.tokens)
        if self.config.prefill_chunk and not self.whole_prompts:
            count = min(count, self.config.prefill_chunk)
        if seq.request.params.prompt_logprobs is not None and seq.num_output == 0:
            return min(count, step.rows)
        return count if step.rows > 0 else 0

    def _reserve(self, seq: Sequence, count: int, copies: list[tuple[int, int]]) -> bool:
        """Own blocks for ``count`` more tokens, private where they are written (copy-on-write). All or nothing."""
        row = seq.lead + seq.computed
        first, last = row // self.block_size, (row + count - 1) // self.block_size
        missing = max(0, last + 1 - len(seq.blocks))
        shared = [i for i in range(first, min(last + 1, len(seq.blocks))) if self.pool.shared(seq.blocks[i])]
        if missing + len(shared) > self.pool.free:
            return False
        for i in shared:
            new = self.pool.allocate()
            copies.append((seq.blocks[i], new))
            self.pool.release(seq.blocks[i])
            seq.blocks[i] = new
        seq.blocks.extend(self.pool.allocate() for _ in range(missing))
        return True

    def _preempt(self, seq: Sequence, step: _Step) -> None:
        self.preemptions += 1
        seq.request.metrics.preemptions += 1
        self._take_back(seq, step)

    def _take_back(self, seq: Sequence, step: _Step | None = None) -> None:
        """Take back all that ``seq`` has. Beams go together: they could not advance without each other."""
        search = seq.request.beams
        for each in [seq] if search is None else seq.request.sequences:
            if step is not None:
                step.drop(each)
            self.running.remove(each)
            self._release(each)
        if search is not None:
            seq = search.fold()
        seq.computed = 0
        self.add(seq)

    def _release(self, seq: Sequence) -> None:
        for block in reversed(seq.blocks):
            self.pool.release(block)
        seq.blocks = []
        self._seats.append(seq.seat)
        seq.seat = -1

    def _seat(self, seq: Sequence) -> None:
        seq.seat = self._seats.pop()
        self.on_seat(seq)

    def _seats_promised(self) -> int:
        """Seats that running requests will need for answers that they have not forked yet."""
        return sum(_seats_needed(seq) - 1 for seq in self.running)

    def _fork(self, item: Scheduled) -> None:
        """When a prompt for several answers completes, its siblings join: same blocks, same row of logits. Called for
        sequences without output."""
        seq = item.seq
        missing = seq.request.width - len(seq.request.sequences)
        if not item.completes or missing <= 0:
            return
        children = []
        for index in range(1, seq.request.width):
            child = seq.fork(index)
            for block in child.blocks:
                self.pool.share(block)
            child.status = Status.RUNNING
            self._seat(child)
            seq.request.sequences.append(child)
            self.running.append(child)
            children.append(child)
        item.followers = children


@dataclass(slots=True)
class _Step:
    """The budget of one step while it is planned."""

    tokens: int
    rows: int
    items: list[Scheduled] = field(default_factory=list)
    prompts: list[Scheduled] = field(default_factory=list)  # those items whose sequence has no output yet
    copies: list[tuple[int, int]] = field(default_factory=list)
    preempted: bool = False

    def take(self, seq: Sequence, count: int) -> None:
        item = Scheduled(seq, count)
        self.items.append(item)
        if seq.num_output == 0:
            self.prompts.append(item)
        self.tokens -= count
        self.rows -= 1 if count == 1 else self._rows(seq, count)

    def drop(self, seq: Sequence) -> None:
        """Take back what a preempted sequence was given in this step.

        Copies for it stay in the list: they run first and in order, so whoever gets the block next overwrites them.
        """
        self.preempted = True
        for item in [item for item in self.items if item.seq is seq]:
            self.items.remove(item)
            self.tokens += item.count
            self.rows += self._rows(seq, item.count)
        self.prompts = [item for item in self.prompts if item.seq is not seq]

    @staticmethod
    def _rows(seq: Sequence, count: int) -> int:
        wants_all = seq.request.params.prompt_logprobs is not None and seq.num_output == 0
        return count if wants_all else 1


def _age(seq: Sequence) -> tuple[int, int, int]:
    """Sort key: the largest is preempted first (least urgent, youngest, last answer)."""
    return (seq.request.priority, seq.request.order, seq.index)


def _seats_needed(seq: Sequence) -> int:
    """Seats ``seq`` takes: its own, and those of answers that its prompt has not forked yet."""
    return 1 if seq.num_output > 0 or seq.index > 0 else 1 + seq.request.width - len(seq.request.sequences)


def iter_requests(sequences: list[Sequence]) -> Iterator[Request]:
    """Distinct requests of ``sequences``, in order."""
    return iter({id(seq.request): seq.request for seq in sequences}.values())
