"""The block pool as a state machine: never two owners, never a block lost."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from penstock.engine.blocks import BlockPool

TOTAL = 6


class Pool(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(TOTAL)
        self.held: list[int] = []
        self.names: dict[bytes, int] = {}

    @precondition(lambda self: self.pool.free > 0)
    @rule()
    def allocate(self) -> None:
        block = self.pool.allocate()
        assert block not in self.held
        self.names = {n: b for n, b in self.names.items() if b != block}
        self.held.append(block)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(self.held))
        self.pool.share(block)
        self.held.append(block)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(self.held))
        self.pool.release(block)
        self.held.remove(block)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), name=st.binary(min_size=1, max_size=1))
    def name(self, data: st.DataObject, name: bytes) -> None:
        block = data.draw(st.sampled_from(self.held))
        self.pool.name(block, name)
        if name not in self.names and block not in self.names.values():
            self.names[name] = block

    @precondition(lambda self: self.names)
    @rule(data=st.data())
    def revive(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.names)))
        block = self.pool.find(name)
        assert block == self.names[name]
        self.pool.share(block)
        self.held.append(block)

    @rule()
    def forget(self) -> None:
        self.pool.forget_cached()
        self.names = {n: b for n, b in self.names.items() if b in self.held}

    @invariant()
    def counts_agree(self) -> None:
        assert self.pool.used == len(set(self.held))
        assert all(self.pool.refs(b) == self.held.count(b) for b in range(TOTAL))
        assert all(self.pool.find(n) == b for n, b in self.names.items())


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_untouched_blocks_come_before_eviction_and_touched_ones_before_both() -> None:
    pool = BlockPool(3)
    a = pool.allocate()
    pool.name(a, b"a")
    pool.release(a)
    b = pool.allocate()
    assert b != a
    pool.release(b)
    assert pool.allocate() == b
    assert pool.allocate() == 2
    assert pool.find(b"a") == a
    assert pool.allocate() == a
    assert pool.find(b"a") is None
