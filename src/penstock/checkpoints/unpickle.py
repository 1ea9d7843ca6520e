"""Pickles of tensors, read by an interpreter of our own that can make tensors and plain data, and nothing else.

Python's ``pickle`` calls what a file names; here names are only names. The opcodes that ``torch.save`` writes are
carried out, the few functions that rebuild tensors are looked up in `CALLS`, and anything else is refused by name. No
object of a class out of the file is ever made, nothing is imported, called or compared. What a pickle can make this
process hold is in proportion to the pickle's size. Opcodes: https://peps.python.org/pep-0307/ and ``pickletools``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from penstock.checkpoints.source import shown

MAX_DEPTH = 1 << 20  # entries of stack or memo
MAX_INTEGER = 16  # bytes


class RefusedError(ValueError):
    """The pickle asks for something that is not a tensor or plain data; the message names it."""


class BrokenError(ValueError):
    """The pickle ends early or makes no sense."""


@dataclass(frozen=True, slots=True)
class Name:
    """``module.name``, as the pickle has it. Nothing is looked up."""

    text: str


@dataclass(frozen=True, slots=True)
class Storage:
    """A piece of memory outside the pickle: ``numel`` numbers of the type that the class ``kind`` stands for."""

    kind: str
    key: str
    numel: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """``size`` numbers of ``storage`` from ``offset`` on, ``stride`` apart; ``dtype`` "" is the storage's own."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str = ""


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise BrokenError("a size that is none")
    return value


def _sizes(value: Any) -> tuple[int, ...]:
    if type(value) not in (tuple, list) or len(value) > 16:
        raise BrokenError("a shape that is none")
    return tuple(_whole(size) for size in value)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Tensor:
    if type(storage) is not Storage:
        raise BrokenError("a tensor without a storage")
    sizes, strides = _sizes(size), _sizes(stride)
    if len(sizes) != len(strides):
        raise BrokenError("a tensor whose shape and strides differ in length")
    return Tensor(storage, _whole(offset), sizes, strides)


def _tensor_v3(storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *rest: Any) -> Any:
    found = _tensor(storage, offset, size, stride)
    if type(dtype) is not Name:
        raise BrokenError("a tensor without a type")
    return Tensor(found.storage, found.offset, found.size, found.stride, dtype.text)


def _parameter(data: Any, *rest: Any) -> Any:
    return data


def _size(sizes: Any = ()) -> tuple[int, ...]:
    return _sizes(sizes)


def _dict() -> dict[Any, Any]:
    return {}


CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": _size,
    "collections.OrderedDict": _dict,
    "builtins.dict": _dict,
}
"""The functions that a pickle of tensors calls, and what they amount to."""

REFERRED = ("torch.storage.UntypedStorage", "torch.nn.parameter.Parameter")


def _allowed(module: str, name: str) -> Name:
    text = f"{module}.{name}"
    storage = module in ("torch", "torch.cuda") and name.endswith("Storage") and name.isidentifier()
    dtype = module == "torch" and name in DTYPES
    if text in CALLS or text in REFERRED or storage or dtype:
        return Name(text)
    raise RefusedError(f"'{shown(text)}'")


DTYPES = (
    "float32", "float64", "float16", "bfloat16", "int8", "uint8", "int16", "int32", "int64", "bool", "float8_e4m3fn",
    "float8_e5m2",
)  # fmt: skip

MARK = object()


def load(data: bytes, at: int = 0) -> tuple[Any, int]:
    """What the pickle at byte ``at`` makes, and where it ends. Raises `RefusedError` or `BrokenError`."""
    machine = _Machine(data, at)
    try:
        while not machine.done:
            machine.step()
    except (struct.error, IndexError, KeyError, TypeError, UnicodeDecodeError, OverflowError) as error:
        raise BrokenError("it ends early or makes no sense") from error
    return machine.result, machine.at


def _set(target: Any, key: Any, value: Any) -> None:
    if type(target) is not dict or type(key) not in (str, int):  # other keys could be slow or deep to hash
        raise BrokenError("a dictionary with odd keys")
    target[key] = value


class _Machine:
    """A stack, the marks in it, a memo. One method for each opcode."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.result: Any = None
        self.done = False

    def step(self) -> None:
        code = self.take(1)[0]
        run = OPCODES.get(code)
        if run is None:
            raise RefusedError(f"the opcode {bytes([code])!r}")
        run(self)
        if len(self.stack) > MAX_DEPTH or len(self.memo) > MAX_DEPTH:
            raise BrokenError("it is larger than any checkpoint's")

    # ----------------------------------------------------------------------------------------------------- reading

    def take(self, count: int) -> bytes:
        end = self.at + count
        if count < 0 or end > len(self.data):
            raise BrokenError("it ends early")
        piece = self.data[self.at : end]
        self.at = end
        return piece

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        end = self.data.find(b"\n", self.at, self.at + 1024)
        if end < 0:
            raise BrokenError("a name without an end")
        return self.take(end + 1 - self.at)[:-1].decode()

    def text(self, form: str) -> None:
        self.stack.append(self.take(self.number(form)).decode("utf-8", "surrogatepass"))

    def integer(self, form: str) -> None:
        size = self.number(form)
        if not 0 <= size <= MAX_INTEGER:
            raise BrokenError("an integer of more than 16 bytes")
        self.stack.append(int.from_bytes(self.take(size), "little", signed=True))

    # ------------------------------------------------------------------------------------------------------- stack

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is MARK:
            raise BrokenError("a mark where a value should be")
        return value

    def since_mark(self) -> list[Any]:
        for place in range(len(self.stack) - 1, -1, -1):
            if self.stack[place] is MARK:
                items = self.stack[place + 1 :]
                del self.stack[place:]
                return items
        raise BrokenError("no mark where one should be")

    def pack(self, count: int) -> None:
        items = [self.pop() for _ in range(count)]
        self.stack.append(tuple(reversed(items)))

    def put(self, place: int) -> None:
        if self.stack[-1] is MARK:
            raise BrokenError("a mark where a value should be")
        self.memo[place] = self.stack[-1]

    def append(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise BrokenError("items for what is no list")
        self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        if len(items) % 2:
            raise BrokenError("a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            _set(self.stack[-1], key, value)

    # ------------------------------------------------------------------------------------------------------- names

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        if type(name) is not str or type(module) is not str:
            raise BrokenError("a name that is no text")
        self.stack.append(_allowed(module, name))

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if type(function) is not Name or type(arguments) is not tuple:
            raise BrokenError("a call of what is no function")
        call = CALLS.get(function.text)
        if call is None:
            raise RefusedError(f"a call of '{shown(function.text)}'")
        self.stack.append(call(*arguments))

    def build(self) -> None:
        """State for the object on the stack: for a dictionary, attributes that are not weights (``_metadata``)."""
        self.pop()
        if type(self.stack[-1]) is not dict:
            raise RefusedError("state for an object")

    def persistent(self) -> None:
        given = self.pop()
        if type(given) is not tuple or not 5 <= len(given) <= 6 or given[0] != "storage" or type(given[1]) is not Name:
            raise RefusedError("a persistent object that is no storage")
        if type(given[2]) is not str or (len(given) == 6 and given[5] is not None):
            raise RefusedError("a view of a storage")
        self.stack.append(Storage(given[1].text, given[2], _whole(given[4])))

    def stop(self) -> None:
        self.result, self.done = self.pop(), True


def _pop_pair(m: _Machine) -> None:
    value, key = m.pop(), m.pop()
    _set(m.stack[-1], key, value)


def _append_one(m: _Machine) -> None:
    item = m.pop()
    m.append([item])


def _proto(m: _Machine) -> None:
    if m.number("<B") > 5:
        raise RefusedError("a protocol above 5")


OPCODES: dict[int, Callable[[_Machine], None]] = {
    ord(code): run
    for code, run in {
        "\x80": _proto,
        "\x95": lambda m: (m.number("<Q"), None)[1],  # frame: a hint for readers of streams
        ".": _Machine.stop,
        "(": lambda m: m.push(MARK),
        "0": lambda m: (m.stack.pop(), None)[1],
        "N": lambda m: m.push(None),
        "\x88": lambda m: m.push(True),
        "\x89": lambda m: m.push(False),
        "J": lambda m: m.push(m.number("<i")),
        "K": lambda m: m.push(m.number("<B")),
        "M": lambda m: m.push(m.number("<H")),
        "G": lambda m: m.push(m.number(">d")),
        "\x8a": lambda m: m.integer("<B"),
        "\x8b": lambda m: m.integer("<i"),
        "X": lambda m: m.text("<I"),
        "\x8c": lambda m: m.text("<B"),
        "\x8d": lambda m: m.text("<Q"),
        ")": lambda m: m.push(()),
        "]": lambda m: m.push([]),
        "}": lambda m: m.push({}),
        "t": lambda m: m.push(tuple(m.since_mark())),
        "\x85": lambda m: m.pack(1),
        "\x86": lambda m: m.pack(2),
        "\x87": lambda m: m.pack(3),
        "l": lambda m: m.push(m.since_mark()),
        "a": _append_one,
        "e": lambda m: m.append(m.since_mark()),
        "s": _pop_pair,
        "u": lambda m: m.set_items(m.since_mark()),
        "q": lambda m: m.put(m.number("<B")),
        "r": lambda m: m.put(m.number("<I")),
        "\x94": lambda m: m.put(len(m.memo)),
        "h": lambda m: m.push(m.memo[m.number("<B")]),
        "j": lambda m: m.push(m.memo[m.number("<I")]),
        "c": lambda m: m.push(_allowed(m.line(), m.line())),
        "\x93": _Machine.stack_global,
        "R": _Machine.reduce,
        "b": _Machine.build,
        "Q": _Machine.persistent,
    }.items()
}
"""The opcodes that pickles of tensors use."""
