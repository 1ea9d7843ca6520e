"""Files of torch.save: the same bytes as torch reads, and nothing but tensors ever comes out of one."""

from __future__ import annotations

import ast
import collections
import contextlib
import os
import pickle
import pickletools
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.checkpoints.readers import open_weights
from penstock.checkpoints.torch_bin import TorchFile
from penstock.checkpoints.unpickle import BrokenError, RefusedError, load
from penstock.errors import CheckpointError, PenstockError, UnsupportedError
from tests.harness import open_runner
from tests.helpers import REPOSITORY, golden, shared

torch = pytest.importorskip("torch")

TYPES = ("float32", "float64", "float16", "bfloat16", "int8", "uint8", "int16", "int32", "int64", "bool",
         "float8_e4m3fn", "float8_e5m2")  # fmt: skip


def read(path: Path) -> dict[str, np.ndarray]:
    with TorchFile(path) as source:
        assert all(source.info(n).shape == source.get(n).shape for n in source.names())
        return {name: source.get(name).copy() for name in source.names()}


def save(path: Path, what: Any, **how: Any) -> Path:
    torch.save(what, path, **how)
    return path


def same(found: np.ndarray, tensor: Any) -> bool:
    expected = tensor.detach().contiguous()
    raw = expected.flatten().view(torch.uint8).numpy().tobytes() if expected.numel() else b""
    return found.shape == tuple(tensor.shape) and found.tobytes() == raw


def tensors() -> dict[str, Any]:
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    found = {f"t.{name}": torch.arange(6).reshape(2, 3).to(getattr(torch, name)) for name in TYPES}
    return found | {
        "base": base, "shared": base[1:3], "turned": base.t(), "column": base[:, 2], "steps": base[::2, 1::2],
        "empty": torch.empty(0, 7), "scalar": torch.tensor(2.5), "parameter": torch.nn.Parameter(torch.ones(2, 2)),
    }  # fmt: skip


@pytest.mark.parametrize("form", ["zip", "stream"])
def test_everything_that_torch_saves_comes_back(tmp_path: Path, form: str) -> None:
    expected = tensors()
    if form == "stream":  # its storages have no types younger than that form
        expected = {name: t for name, t in expected.items() if "float8" not in name}
    found = read(save(tmp_path / "m.bin", expected, _use_new_zipfile_serialization=form == "zip"))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert same(found[name], tensor), name


def test_a_module_s_state_and_its_wrappers(tmp_path: Path) -> None:
    state = torch.nn.Linear(3, 2).state_dict()
    assert isinstance(state, collections.OrderedDict)
    for what in (state, {"state_dict": state, "epoch": 3}, {"model": {"state_dict": state}}, {**state, "step": 7}):
        found = read(save(tmp_path / "m.bin", what))
        assert found.keys() == {"weight", "bias"}
        assert same(found["weight"], state["weight"])


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol(tmp_path: Path, protocol: int) -> None:
    found = read(save(tmp_path / "m.bin", {"水": torch.ones(3)}, pickle_protocol=protocol))
    assert found["水"].tolist() == [1, 1, 1]


def test_data_are_views_of_the_file(tmp_path: Path) -> None:
    with TorchFile(save(tmp_path / "m.bin", {"a": torch.ones(4, 4), "b": torch.ones(4, 4).t()})) as source:
        view = source.get("a")
        assert not view.flags.owndata and not view.flags.writeable
        source.release("a")
        assert source.get("a").sum() == 16


@pytest.mark.parametrize("name", ["chatglm", "llama_gqa", "baichuan2_13b"])
def test_checkpoints_are_their_safetensors_byte_for_byte(name: str) -> None:
    one, _ = open_weights(shared("golden", name, "ckpt"))
    other, _ = open_weights(shared("golden", name, "ckpt_bin"))
    assert sorted(one.names()) == sorted(other.names())
    for tensor in one.names():
        a, b = one.get(tensor), other.get(tensor)
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def test_a_model_runs_from_it() -> None:
    arrays = np.load(golden("llama_gqa") / "golden.npz")
    with open_runner(shared("golden", "llama_gqa", "ckpt_bin")) as runner:
        assert runner.greedy(arrays["p1_ids"], 24) == arrays["p1_greedy"].tolist()


# ----------------------------------------------------------------------------------------------------------- safety


def test_only_tests_know_pickle() -> None:
    for path in (REPOSITORY / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {n.split(".")[0] for n in names} & {"pickle", "dill", "cloudpickle", "marshal", "shelve"}, path


class Calls:
    """Pickles as a call of ``function``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def archive(path: Path, pickled: bytes, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("m/data.pkl", pickled)
        for name, data in members.items():
            file.writestr(f"m/{name.replace('__', '/')}", data)
    return path


CANARIES: dict[str, Any] = {
    "os.system": lambda canary: Calls(os.system, f"touch {canary}"),
    "eval": lambda canary: Calls(eval, f"open({str(canary)!r}, 'w')"),
    "exec": lambda canary: Calls(exec, f"open({str(canary)!r}, 'w')"),
    "open": lambda canary: Calls(open, str(canary), "w"),
    "getattr": lambda canary: Calls(getattr, "x", "upper"),
    "torch.load": lambda canary: Calls(torch.load, str(canary)),
    "torch.hub": lambda canary: Calls(torch.hub.load, str(canary)),
    "partial": lambda canary: Calls(__import__("functools").partial, os.system, f"touch {canary}"),
    "a class": lambda canary: Path(canary),
    "numpy": lambda canary: np.ones(3),
    "a storage loader": lambda canary: Calls(torch.storage._load_from_bytes, b"x"),
}


@pytest.mark.parametrize("case", CANARIES)
@pytest.mark.parametrize("form", ["zip", "stream", "inner"])
def test_what_is_no_tensor_is_refused_by_name(tmp_path: Path, case: str, form: str) -> None:
    canary, path = tmp_path / "canary", tmp_path / "m.bin"
    what = {"weight": torch.ones(2), "evil": CANARIES[case](canary)}
    if form == "inner":
        archive(path, pickle.dumps(what["evil"]))
    else:
        save(path, what, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(UnsupportedError, match=r"asks for .*, which no checkpoint of weights needs") as caught:
        TorchFile(path)
    assert not canary.exists()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "code",
    [b"cos\nsystem\n(S'true'\ntR.", b"\x80\x02c__builtin__\neval\n.", b"(ios\nsystem\n.", b"\x80\x02cos\nsystem\n\x81.",
     b"\x80\x04\x8c\x02os\x8c\x06system\x93.", b"\x80\x02\x82\x01.", b"P1\n.", b"\x80\x02ctorch\n_C\n.",
     b"\x80\x02ctorch.FloatStorage\n__reduce__\n.", b"\x80\x06."],
)  # fmt: skip
def test_opcodes_and_names_of_others_are_refused(code: bytes) -> None:
    with pytest.raises((RefusedError, BrokenError)):
        load(code)


@pytest.mark.parametrize(
    "code",
    [b"", b"\x80", b".", b"(.", b"\x80\x02}(K\x01u.", b"\x80\x02])Ns.", b"h\x05.",
     b"\x80\x02}])s.", b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff", b"X\xff\xff\xff\xffab", b"\x8b\xff\xff\xff\x7f1",
     b"Na.",
     b"\x80\x02]((e.", b"cnothing", b"\x80\x02ccollections\nOrderedDict\nK\x01R.",
     b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.", b"\x80\x02NQ."],
)  # fmt: skip
def test_pickles_that_make_no_sense_are_told(code: bytes) -> None:
    with pytest.raises((BrokenError, RefusedError)):
        load(code)


def test_nesting_and_repetition_stay_in_proportion() -> None:
    load(b"\x80\x02)" + b"\x85" * 100_000 + b".")
    laughs = b"\x80\x02]q\x00" + b"".join(b"](h%ch%ce" % (i, i) + b"q%c" % (i + 1) for i in range(99)) + b"."
    load(laughs)  # 2^99 if it were walked
    key = b"\x80\x02}" + b")" + b"\x85" * 100_000 + b"Ns."
    with pytest.raises(BrokenError, match="odd keys"):
        load(key)


def good(path: Path) -> bytes:
    return save(path, {"a": torch.arange(6, dtype=torch.float32).reshape(2, 3), "b": torch.ones(2)}).read_bytes()


def outcome(path: Path, data: bytes) -> bool:
    """Whether ``data`` is refused; else all of it must be readable."""
    path.write_bytes(data)
    try:
        with TorchFile(path) as source:
            for name in source.names():
                assert source.get(name).nbytes <= len(data)
                source.get(name).tobytes()
    except PenstockError as error:
        if "\n" in str(error):
            raise
        return True
    return False


def pickled(edit: Any, **members: bytes) -> bytes:
    """The pickle of one tensor [2, 3] of floats in storage "0", edited."""
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQ"
    parts = {"storage": storage, "offset": b"K\x00", "size": b"K\x02K\x03\x86", "stride": b"K\x03K\x01\x86"}
    parts |= edit
    head = b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n("
    return head + b"".join(parts[p] for p in ("storage", "offset", "size", "stride")) + b"\x89}tRs."


BIG = b"\x8a\x07\xff\xff\xff\xff\xff\xff\x7f"


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({}, ""),
        ({"offset": b"K\x01"}, "does not fit its storage"),
        ({"offset": BIG}, "does not fit its storage"),
        ({"offset": b"J\xff\xff\xff\xff"}, "a size that is none"),
        ({"size": b"K\x02K\x04\x86"}, "does not fit its storage"),
        ({"size": BIG + BIG + b"\x86"}, "does not fit its storage"),
        ({"stride": b"K\x04K\x01\x86"}, "does not fit its storage"),
        ({"stride": b"J\xff\xff\xff\xffK\x01\x86"}, "a size that is none"),
        ({"stride": b"K\x00K\x00\x86", "size": BIG + b"K\x01\x86"}, "does not fit its storage"),
        ({"stride": b"K\x01\x85"}, "differ in length"),
        ({"size": b"N"}, "a shape that is none"),
        ({"storage": b"N"}, "without a storage"),
        ({"storage": b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x009X\x03\x00\x00\x00cpuK\x06tQ"},
         "is not there"),
        ({"storage": b"(X\x07\x00\x00\x00storagectorch\nQuantStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQ"},
         "an unknown one"),
        ({"size": b"K\x00" + BIG + b"\x86", "stride": b"K\x01K\x01\x86"}, ""),
    ],
)  # fmt: skip
def test_a_tensor_lies_in_its_storage(tmp_path: Path, edit: dict[str, bytes], said: str) -> None:
    path = archive(tmp_path / "m.bin", pickled(edit), data__0=np.arange(6, dtype=np.float32).tobytes())
    if said:
        with pytest.raises(CheckpointError, match=said):
            TorchFile(path)
    else:
        read(path)


def test_a_storage_shorter_than_it_says(tmp_path: Path) -> None:
    path = archive(tmp_path / "m.bin", pickled({}), data__0=bytes(23))
    with pytest.raises(CheckpointError, match="storage of 5 numbers"):
        TorchFile(path)


def test_members_that_torch_would_not_write(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("m/data.pkl", pickled({}))
    with pytest.raises(UnsupportedError, match="compressed"):
        TorchFile(path)
    archive(path, pickled({}), byteorder=b"big", data__0=bytes(24))
    with pytest.raises(UnsupportedError, match="big-endian"):
        TorchFile(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("m/x", b"")
    with pytest.raises(CheckpointError, match=r"no data\.pkl"):
        TorchFile(path)
    archive(path, pickled({}), data__0=b"", data__1=b"")
    path.write_bytes(path.read_bytes().replace(b"m/data/1", b"m/data/0"))
    with pytest.raises(CheckpointError, match="appears twice"):
        TorchFile(path)


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"", "empty"), (b"PK\3\4", "directory"), (b"PK\3\4" + bytes(99), "directory"), (b"hello", "not a file of torch"),
     (b"\x80\x02K\x01.", "not a file of torch"),
     (bytes(257) + b"ustar", "a tar"), (b"\x80\x02cos\nsystem\n.", "os.system")],
)  # fmt: skip
def test_other_files_are_told(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "m.bin").write_bytes(data)
    with pytest.raises(CheckpointError, match=said):
        TorchFile(tmp_path / "m.bin")


def test_what_holds_no_weights(tmp_path: Path) -> None:
    for what in ([torch.ones(2)], {"lr": 0.1}, {3: torch.ones(2)}, {}):
        with pytest.raises(UnsupportedError, match="state_dict"):
            TorchFile(save(tmp_path / "m.bin", what))


@pytest.mark.parametrize("form", ["zip", "stream"])
def test_truncation_is_an_error(tmp_path: Path, form: str) -> None:
    path = tmp_path / "m.bin"
    data = save(path, {"a": torch.ones(2, 3)}, _use_new_zipfile_serialization=form == "zip").read_bytes()
    assert not outcome(path, data)
    for size in range(0, len(data), 3):
        assert outcome(path, data[:size]), size


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, 5000), st.binary(min_size=1, max_size=8)), min_size=1, max_size=6))
def test_mutations_never_crash(tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, bytes]]) -> None:
    path = tmp_path_factory.getbasetemp() / "mutated.bin"
    data = bytearray(good(path))
    for position, value in edits:
        position %= len(data)
        data[position : position + len(value)] = value
    outcome(path, bytes(data))


@settings(max_examples=300)
@given(
    st.lists(
        st.sampled_from([bytes([ord(op.code)]) for op in pickletools.opcodes]) | st.binary(max_size=5), max_size=40
    )
)
def test_any_opcodes_never_crash(codes: list[bytes]) -> None:
    with contextlib.suppress(RefusedError, BrokenError):
        load(b"\x80\x02" + b"".join(codes) + b".")


def test_a_legacy_storage_beyond_the_file(tmp_path: Path) -> None:
    path = save(tmp_path / "m.bin", {"a": torch.ones(2, 3)}, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    count = struct.pack("<Q", 6)
    at = data.rindex(count)
    path.write_bytes(data[:at] + struct.pack("<Q", 1 << 62) + data[at + 8 :])
    with pytest.raises(CheckpointError, match="beyond the file"):
        TorchFile(path)
