"""Tiny checkpoints, servers in a thread, and a client that speaks HTTP byte by byte."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from penstock.async_llm import AsyncLLM
from penstock.server.library import Library
from penstock.server.options import ServerOptions
from penstock.server.run import address, bind, make_server, run_until_done
from penstock.server.state import make_state

NAME = "tiny"
SPECIALS = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_checkpoint(folder: Path, template: str = TEMPLATE, context: int = 1024) -> Path:
    """A random llama of two layers, whose tokens are bytes: id = byte, control tokens from 256."""
    from safetensors.numpy import save_file
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    shown = [b for b in range(256) if chr(b).isprintable() and not chr(b).isspace() and b not in range(127, 161)]
    hidden = [b for b in range(256) if b not in shown]
    vocab = {chr(b): b for b in shown} | {chr(256 + i): b for i, b in enumerate(hidden)}
    assert set(vocab) == set(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIALS])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 260,
        "max_position_embeddings": context, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
        "tie_word_embeddings": False, "torch_dtype": "float32", "bos_token_id": 256, "eos_token_id": 257,
    }  # fmt: skip
    random = np.random.default_rng(7)

    def weight(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) * 0.2).astype(np.float32)

    tensors = {
        "model.embed_tokens.weight": weight(260, 32) * 5,
        "model.norm.weight": np.ones(32, np.float32),
        "lm_head.weight": weight(260, 32),
    }
    for layer in range(2):
        prefix = f"model.layers.{layer}."
        for name, shape in (
            ("self_attn.q_proj", (32, 32)), ("self_attn.k_proj", (16, 32)), ("self_attn.v_proj", (16, 32)),
            ("self_attn.o_proj", (32, 32)), ("mlp.gate_proj", (64, 32)), ("mlp.up_proj", (64, 32)),
            ("mlp.down_proj", (32, 64)),
        ):  # fmt: skip
            tensors[f"{prefix}{name}.weight"] = weight(*shape)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}{name}.weight"] = np.ones(32, np.float32)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "bos_token": "<s>", "eos_token": "</s>", "chat_template": template,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }))  # fmt: skip
    return folder


def make_lora(folder: Path) -> Path:
    """A LoRA for :func:`make_checkpoint`'s model."""
    from safetensors.numpy import save_file

    random = np.random.default_rng(1)
    tensors = {}
    for layer in range(2):
        at = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors[f"{at}.lora_A.weight"] = random.standard_normal((2, 32)).astype(np.float32)
        tensors[f"{at}.lora_B.weight"] = random.standard_normal((32, 2)).astype(np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none", "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def open_model(path: Path, **options: Any) -> AsyncLLM:
    defaults: dict[str, Any] = {
        "executor": EXECUTOR, "kv_cache_memory": 1 << 24, "max_num_batched_tokens": 64, "max_num_seqs": 16,
        "max_logits_rows": 64, "served_model_name": NAME, "threads": 1,
    }  # fmt: skip
    return AsyncLLM(path, **{**defaults, **options})


def _executor() -> str:
    try:
        from penstock import _native  # noqa: F401
    except ImportError:
        import torch

        torch.set_num_threads(1)
        return "torch"
    return "native"


EXECUTOR = _executor()


class Server:
    """A server in a thread, on a free port of loopback. ``state`` is what it shares between requests."""

    def __init__(
        self,
        llm: AsyncLLM | None,
        others: dict[str, AsyncLLM] | None = None,
        engine: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        mine = ServerOptions(**{"port": 0, "log_requests": False, **options})
        models = {} if llm is None else {llm.model.name: llm}
        self._llm = llm
        self.state = make_state({**models, **(others or {})}, mine, library=Library(mine, engine))
        self.listener = bind("127.0.0.1", 0)
        self.url = address(self.listener)
        self.port = self.listener.getsockname()[1]
        self._ready = threading.Event()
        self.uvicorn = make_server(self.state, self._ready.set)
        self._thread = threading.Thread(target=lambda: run_until_done(self.uvicorn.serve(sockets=[self.listener])))

    def __enter__(self) -> Server:
        self._thread.start()
        assert self._ready.wait(20)
        return self

    def __exit__(self, *exc: object) -> None:
        self.uvicorn.should_exit = True
        self.uvicorn.force_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()

    @property
    def llm(self) -> AsyncLLM:
        assert self._llm is not None
        return self._llm

    @property
    def stats(self) -> Any:
        return self.llm.model.engine.stats

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, timeout: float = 30
    ) -> Answer:
        """One request over a connection of its own; ``body`` bytes, or something for JSON."""
        with Raw(self.port, timeout) as raw:
            raw.ask(method, path, body, headers)
            return raw.answer()

    def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        return self.request("POST", path, body, {k.replace("_", "-"): v for k, v in headers.items()})

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, None, {k.replace("_", "-"): v for k, v in headers.items()})

    def idle(self) -> bool:
        """Whether nothing is left of any request."""
        stats = self.stats
        return stats.blocks_used == 0 and stats.running == 0 and stats.waiting == 0 and not self.state.tasks


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The JSON of each event of a stream, without ``[DONE]``."""
        return [json.loads(d) for d in data_lines(self.body) if d != b"[DONE]"]

    @property
    def error(self) -> Any:
        return self.json["error"]


def data_lines(body: bytes) -> Iterator[bytes]:
    for block in body.split(b"\n\n"):
        for line in block.split(b"\n"):
            if line.startswith(b"data:"):
                yield line[5:].strip()


class Raw:
    """A socket that speaks HTTP/1.1 as badly as it is told to."""

    def __init__(self, port: int, timeout: float = 30) -> None:
        self.port = port
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *exc: object) -> None:
        self.socket.close()

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        given = {"Host": f"127.0.0.1:{self.port}", "Connection": "close", **(headers or {})}
        if method == "POST":
            given = {"Content-Type": "application/json", "Content-Length": str(len(data)), **given}
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in given.items())
        self.socket.sendall(head.encode("latin-1") + b"\r\n" + data)

    def read_until(self, mark: bytes) -> bytes:
        found = b""
        while mark not in found:
            part = self.socket.recv(65536)
            if not part:
                break
            found += part
        return found

    def rest(self) -> bytes:
        """Everything until the server closes."""
        found = b""
        while part := self.socket.recv(1 << 16):
            found += part
        return found

    def answer(self) -> Answer:
        """The one answer of a connection that the server closes."""
        return parse_answer(self.rest())


def parse_answer(data: bytes) -> Answer:
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}
    if headers.get("transfer-encoding") == "chunked":
        body = b"".join(_chunks(body))
    return Answer(int(lines[0].split()[1]), headers, body)


def _chunks(data: bytes) -> Iterator[bytes]:
    while data:
        size, _, data = data.partition(b"\r\n")
        if not size or int(size, 16) == 0:
            return
        yield data[: int(size, 16)]
        data = data[int(size, 16) + 2 :]


def eventually(condition: Callable[[], bool], within: float = 5.0) -> bool:
    """Whether ``condition`` becomes true."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return condition()


class Wrapped:
    """Delegates to an executor, whose class may allow no new attributes."""

    def __init__(self, executor: Any) -> None:
        self._executor = executor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)


class Scripted(Wrapped):
    """An executor whose model says ``script``, byte by byte, and then ends."""

    END = 257

    def __init__(self, executor: Any, script: str = "") -> None:
        super().__init__(executor)
        self.script: bytes | None = script.encode()

    def run(self, batch: Any) -> Any:
        output = self._executor.run(batch)
        if self.script is None:
            return output
        sampling = batch.sampling
        for i in range(len(output.token_ids)):
            if sampling.target[i] < 0:
                at = int(sampling.draw[i])
                output.token_ids[i] = self.script[at] if at < len(self.script) else self.END
        return output


class Talker:
    """A server whose model says what it is told."""

    def __init__(self, server: Server, scripted: Scripted) -> None:
        self.server, self.url, self.post, self._scripted = server, server.url, server.post, scripted

    def say(self, text: str) -> None:
        self._scripted.script = text.encode()

    def free(self) -> None:
        """Let the model speak for itself."""
        self._scripted.script = None
