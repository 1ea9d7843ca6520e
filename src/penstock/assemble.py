"""From a configuration to a model that runs: checkpoint → facts → program → executor → engine, with one table of what
was resolved. Everything that can fail for a reason of the user's fails here, before a request."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.aside import Aside
from penstock.config import DTYPES, KV_DTYPES, Config
from penstock.errors import CheckpointError, ConfigError
from penstock.memory import available_memory, human_bytes
from penstock.types import I32

if TYPE_CHECKING:
    from penstock.adapters import Adapters
    from penstock.checkpoints.folder import Checkpoint
    from penstock.engine.engine import Engine
    from penstock.engine.sequence import Sequence as EngineSequence
    from penstock.executors.base import Executor, Limits
    from penstock.models.architecture import Architecture
    from penstock.models.family import Family
    from penstock.models.program import Program
    from penstock.models.rules import Rule
    from penstock.quant.detect import Quantisation
    from penstock.text.templates import ChatTemplate
    from penstock.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)
EMBEDDED = Path(__file__).parent / "demo_model"
EMBEDDED_NAME = "penstock-demo"

LoadProgress = Callable[[str, int, int], None]
"""Called with (phase, done, total): phases ``download`` and ``load``, in bytes."""


@dataclass(slots=True)
class Model:
    """A loaded model. ``close`` frees the executor."""

    name: str
    path: Path
    config: Config
    family: Family
    architecture: Architecture
    engine: Engine
    executor: Executor
    tokenizer: Tokenizer | None
    generation_config: Mapping[str, Any]
    eos_ids: frozenset[int]
    max_model_len: int
    settings: Mapping[str, Any]
    adapters: Adapters
    quantisation: str = "none"
    resolved: dict[str, str] = field(default_factory=dict)
    templates: dict[str, ChatTemplate] = field(default_factory=dict)

    def close(self) -> None:
        self.engine.masks.close()
        self.executor.close()


def assemble(
    config: Config, progress: LoadProgress | None = None, meanwhile: Callable[[], None] | None = None
) -> Model:
    """Load everything. Raises ``ConfigError`` for impossible wishes, ``CheckpointError`` for what the files hold.

    ``meanwhile`` is called in another thread while weights are packed, which leaves Python idle.
    """
    from penstock.checkpoints.folder import Checkpoint

    started = time.monotonic()
    report = progress or (lambda phase, done, total: None)
    checkpoint = Checkpoint.open(
        config.model.model or str(EMBEDDED),
        config.model.revision,
        config.model.download_dir,
        progress=lambda done, total: report("download", done, total),
    )
    with checkpoint:
        model = _model(config, checkpoint, report, meanwhile)
    model.resolved = _resolved(model, time.monotonic() - started)
    return model


def _model(config: Config, checkpoint: Checkpoint, report: LoadProgress, meanwhile: Callable[[], None] | None) -> Model:
    """Facts → program → executor with its weights → engine."""
    from penstock.checkpoints.ties import settle_ties
    from penstock.executors.base import resolve
    from penstock.models.decoder import build
    from penstock.models.registry import resolve as resolve_family
    from penstock.quant.detect import detect

    assert checkpoint.weights is not None  # opened with weights
    settings = {**checkpoint.config, **(config.model.hf_overrides or {})}
    family = resolve_family(settings)
    rules = family.rules(family.architecture(settings), settings)
    architecture = settle_ties(family.architecture(settings), checkpoint.weights, rules)
    program = build(architecture)
    quantisation = detect(settings, checkpoint.weights, config.model.quantization)
    stored = _stored_dtype(settings, checkpoint)
    if quantisation.method != "none":
        wish = config.executor
        stored = resolve(wish.executor).cache_type(stored, DTYPES[config.model.dtype], wish.activation, wish.isa)
    limits, max_model_len = _limits(config, architecture, program, stored)
    executor = _executor(config, program, limits)
    try:
        with Aside(partial(_aside, config, checkpoint, meanwhile)) as tokenizing:

            def watching(phase: str, done: int, total: int) -> None:
                tokenizing.check()
                report(phase, done, total)

            _load(executor, checkpoint, rules, quantisation, watching)
            tokenizer = tokenizing.result()
        eos_ids = _eos_ids(tokenizer, checkpoint.generation_config, settings, family, architecture.vocab_size)
        engine = _engine(config, executor, architecture, max_model_len, eos_ids)
        adapters = _adapters(config, engine, architecture, settings)
    except BaseException:
        executor.close()
        raise
    return Model(
        name=config.model.served_model_name or config.model.model or EMBEDDED_NAME,
        path=checkpoint.path,
        config=config,
        family=family,
        architecture=architecture,
        engine=engine,
        executor=executor,
        tokenizer=tokenizer,
        generation_config=checkpoint.generation_config if config.model.generation_config == "auto" else {},
        eos_ids=eos_ids,
        max_model_len=max_model_len,
        settings=settings,
        adapters=adapters,
        quantisation=quantisation.method,
    )


def _aside(config: Config, checkpoint: Checkpoint, meanwhile: Callable[[], None] | None) -> Tokenizer | None:
    """What is made while weights are packed."""
    import_module("penstock.engine.engine")
    if meanwhile is not None:
        meanwhile()
    return _tokenizer(config, checkpoint)


def _executor(config: Config, program: Program, limits: Limits) -> Executor:
    from penstock.executors.base import resolve

    wish = config.executor
    executor: Executor = resolve(wish.executor)(
        program, limits, compute=DTYPES[config.model.dtype], threads=wish.threads, isa=wish.isa, mode=wish.mode,
        activation=wish.activation,
    )  # fmt: skip
    return executor


def _load(
    executor: Executor, checkpoint: Checkpoint, rules: Sequence[Rule], quantisation: Quantisation, report: LoadProgress
) -> None:
    from penstock.checkpoints.load import stream_weights

    weights = stream_weights(
        checkpoint,
        executor.program,
        rules,
        quantisation.scheme_for,
        progress=lambda done, total: report("load", done, total),
        words=executor.takes_words,
    )
    convert = quantisation.convert
    executor.load(weights if convert is None else ((spec, convert(spec, data)) for spec, data in weights))


def _engine(
    config: Config, executor: Executor, architecture: Architecture, max_model_len: int, eos_ids: frozenset[int]
) -> Engine:
    from penstock.engine.admission import ModelFacts
    from penstock.engine.engine import Engine

    facts = ModelFacts(
        vocab_size=architecture.vocab_size,
        max_model_len=max_model_len,
        eos_ids=eos_ids,
        length_key=architecture.length_key,
        recompute_past=architecture.recompute_past,
        **_positions(architecture),
    )
    return Engine(
        executor,
        facts,
        config.scheduler,
        prefix_caching=config.cache.enable_prefix_caching,
        seed=config.model.seed,
        watermark=config.watermark,
    )


def _adapters(config: Config, engine: Engine, architecture: Architecture, settings: Mapping[str, Any]) -> Adapters:
    """The adapters that the configuration names; their files call tensors as the original checkpoint does."""
    from penstock.adapters import Adapters, load_all
    from penstock.models.gguf import original_rules
    from penstock.models.registry import resolve as resolve_family

    rules = original_rules(settings, architecture, resolve_family)
    adapters = Adapters(engine, architecture, rules, config.adapter)
    load_all(adapters, config.adapter.adapters)
    return adapters


def _positions(architecture: Architecture) -> dict[str, Any]:
    """How the engine asks for positions, where they are not simply 0, 1, 2 …"""
    from penstock.models.positions import bidirectional_boundary, token_positions

    if architecture.position_tokens is None:
        return {}

    def positions(seq: EngineSequence, start: int, count: int) -> I32:
        return token_positions(architecture, seq.request.prompt, start, start + count)

    return {"positions": positions, "boundary": partial(bidirectional_boundary, architecture)}


def _limits(config: Config, architecture: Architecture, program: Program, stored: str) -> tuple[Limits, int]:
    """Executor limits from the wishes and the memory there is, and the longest sequence that will be served."""
    from penstock.executors.base import Limits, kv_block_bytes

    wish = config.model.max_model_len
    longest = wish or architecture.context_length
    if wish and architecture.embedding.positions and wish > architecture.embedding.positions:
        raise ConfigError(
            f"max_model_len={wish}: the model has learned positions for {architecture.embedding.positions} tokens only"
        )
    if wish and wish > architecture.context_length:
        logger.warning("max_model_len=%d: the model was made for %d tokens", wish, architecture.context_length)
    kv_dtype = KV_DTYPES[config.cache.kv_cache_dtype]
    if kv_dtype == "auto":
        kv_dtype = "f32" if DTYPES[config.model.dtype] == "f32" else stored
    size = config.cache.block_size
    per_block = kv_block_bytes(program, size, kv_dtype)
    budget = config.cache.kv_cache_memory or int(available_memory() * config.cache.memory_utilization)
    whole = -(-longest // size)
    blocks = min(budget // per_block, whole * config.scheduler.max_num_seqs)
    if blocks < whole:
        if wish or blocks < 1:
            raise ConfigError(
                f"one sequence of {longest} tokens needs {human_bytes(whole * per_block)} of KV cache, but "
                f"{human_bytes(budget)} are allowed: lower max_model_len to {max(1, blocks * size)}, raise "
                "kv_cache_memory, or set kv_cache_dtype to a smaller type"
            )
        longest = blocks * size
    whole_prompts = any(b.attention.bidirectional_prompt for b in architecture.blocks)
    step = config.scheduler.max_num_batched_tokens
    limits = Limits(
        max_tokens=max(step, longest) if whole_prompts else step,
        max_seqs=config.scheduler.max_num_seqs,
        max_logits_rows=min(config.scheduler.max_logits_rows, step),
        max_context=longest,
        num_blocks=int(blocks),
        block_size=size,
        kv_dtype=kv_dtype,  # type: ignore[arg-type]
    )
    return limits, longest


def _stored_dtype(settings: Mapping[str, Any], checkpoint: Checkpoint) -> str:
    """The type most of the weights are stored in: what the KV cache takes by default."""
    named = str(settings.get("torch_dtype") or settings.get("dtype") or "").removeprefix("torch.")
    if DTYPES.get(named, "auto") != "auto":
        return DTYPES[named]
    sizes: dict[str, int] = {}
    if checkpoint.weights is not None:
        for name in checkpoint.weights.names():
            info = checkpoint.weights.info(name)
            sizes[str(info.dtype)] = sizes.get(str(info.dtype), 0) + info.nbytes
    most = max(sizes, key=lambda k: sizes[k]) if sizes else "float32"
    quantised = {"uint8": "f16", "int8": "f16", "int32": "f16", "float8_e4m3fn": "bf16"}
    return {"float16": "f16", "bfloat16": "bf16", **quantised}.get(most, "f32")


def _tokenizer(config: Config, checkpoint: Checkpoint) -> Tokenizer | None:
    """The tokenizer that was named, else the checkpoint's own: in its folder, or inside a GGUF file."""
    if config.model.skip_tokenizer_init:
        return None
    from penstock.checkpoints.readers import is_gguf
    from penstock.text.tokenizer import Tokenizer

    named = Path(config.model.tokenizer) if config.model.tokenizer else None
    file = named or (checkpoint.files[0] if checkpoint.files else None)
    if file is not None and is_gguf(file):
        from penstock.checkpoints.gguf import read_metadata

        metadata = None if named else getattr(checkpoint.weights, "metadata", None)
        return Tokenizer.from_gguf(read_metadata(file) if metadata is None else metadata, source=str(file))
    if named is not None and named.is_file():  # one file of a folder, such as qwen.tiktoken
        return Tokenizer.from_folder(named.parent, mode="tiktoken" if named.suffix == ".tiktoken" else "auto")
    return Tokenizer.from_folder(named or checkpoint.path)


def _eos_ids(
    tokenizer: Tokenizer | None,
    generation: Mapping[str, Any],
    settings: Mapping[str, Any],
    family: Family,
    vocab_size: int,
) -> frozenset[int]:
    """The union of all sources: both configs, the tokenizer, the family's end-of-turn tokens."""
    from penstock.text.special import stop_ids

    ids = set(stop_ids(tokenizer, generation, settings))
    if tokenizer is not None:
        control = tokenizer.control_texts
        ids |= {control[token] for token in family.stop_tokens if token in control}
        if tokenizer.vocab_size > vocab_size:
            raise CheckpointError(
                f"the tokenizer has {tokenizer.vocab_size} tokens but the model only {vocab_size}: it belongs to "
                "another model; give the right one with tokenizer="
            )
    return frozenset(i for i in ids if i < vocab_size)


def _resolved(model: Model, seconds: float) -> dict[str, str]:
    """The start-up table: what was chosen, what is taken, what can grow."""
    info, memory, limits = model.executor.info, model.executor.memory, model.executor.limits
    return {
        "model": f"{model.name} ({model.family.name}, context {model.max_model_len}{_quantised(model)})",
        "executor": f"{info.name} {info.isa}, {info.threads} threads, {info.compute} arithmetic",
        "memory taken": f"weights {human_bytes(memory.weights)}",
        "memory that can grow": (
            f"KV cache up to {human_bytes(memory.kv_reserved)} "
            f"({limits.num_blocks} blocks of {limits.block_size} tokens, {limits.kv_dtype}), "
            f"workspace up to {human_bytes(memory.workspace_reserved)}"
        ),
        "step": f"at most {limits.max_seqs} sequences and {limits.max_tokens} tokens",
        **({"adapters": ", ".join(model.adapters.names())} if model.adapters.names() else {}),
        "loaded in": f"{seconds:.2f} s",
    }


def _quantised(model: Model) -> str:
    return "" if model.quantisation == "none" else f", {model.quantisation}"
