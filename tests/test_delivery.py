"""Outputs on their way to event loops: in order, none lost, the first and the last at once, the others soon."""

from __future__ import annotations

import asyncio
import threading

import pytest

from penstock import delivery
from penstock.delivery import Inbox, Mailbox
from penstock.errors import OverloadedError
from penstock.types import RequestOutput


def output(number: int, error: str | None = None) -> RequestOutput:
    return RequestOutput(str(number), None, [], [], False, error=error)


async def name(box: Inbox) -> str:
    item = await asyncio.wait_for(box.get(), 10)
    assert isinstance(item, RequestOutput)
    return item.request_id


async def test_everything_arrives_once_and_in_order():
    mailbox = Mailbox(asyncio.get_running_loop())
    boxes = [Inbox(mailbox) for _ in range(3)]

    def engine() -> None:
        for i in range(500):
            mailbox.post([(box, output(i)) for box in boxes], i % 50 == 0)
        mailbox.post([(box, output(-1)) for box in boxes], True)

    thread = threading.Thread(target=engine)
    thread.start()

    async def read(box: Inbox) -> list[str]:
        found = []
        while (item := await name(box)) != "-1":
            found.append(item)
        return found

    assert await asyncio.gather(*map(read, boxes)) == [[str(i) for i in range(500)]] * 3
    thread.join()


async def test_what_is_urgent_does_not_wait_and_the_rest_waits_a_little(monkeypatch):
    monkeypatch.setattr(delivery, "SECONDS", 30.0)
    loop = asyncio.get_running_loop()
    mailbox = Mailbox(loop)
    box = Inbox(mailbox)
    mailbox.post([(box, output(0))], False)  # nothing was emptied for long: at once
    assert await name(box) == "0"
    mailbox.post([(box, output(1))], False)
    await asyncio.sleep(0.05)
    assert not box.more
    mailbox.post([(box, output(2))], True)
    assert await name(box) == "1"
    assert box.more and await name(box) == "2" and not box.more
    monkeypatch.setattr(delivery, "SECONDS", 0.02)
    mailbox.post([(box, output(3))], False)
    mailbox.post([(box, output(4))], False)
    assert await name(box) == "3"
    assert box.more  # both came with one wake-up


async def test_an_error_is_nothing_to_wait_for():
    mailbox = Mailbox(asyncio.get_running_loop())
    box = Inbox(mailbox)
    for bad in (OverloadedError("gone"), output(1, "failed")):
        box.put(output(0))
        box.put(bad)
        assert box.more
        await box.get()
        assert not box.more
        assert await box.get() is bad


def test_a_loop_that_is_closed_is_no_fault():
    loop = asyncio.new_event_loop()
    mailbox = Mailbox(loop)
    loop.close()
    mailbox.post([(Inbox(mailbox), output(0))], True)


async def test_a_reader_that_is_cancelled_leaves_what_came(monkeypatch):
    mailbox = Mailbox(asyncio.get_running_loop())
    box = Inbox(mailbox)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(box.get(), 0.01)
    mailbox.post([(box, output(7))], True)
    assert await name(box) == "7"
