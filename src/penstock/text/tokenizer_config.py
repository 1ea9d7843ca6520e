"""What the JSON files beside a vocabulary say: ``tokenizer_config.json`` and its older companions, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penstock.errors import CheckpointError
from penstock.text.files import MIB, read_json_if, read_text

NAMED = ("bos_token", "eos_token", "unk_token", "pad_token")
MORE_NAMED = ("sep_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class TokenizerConfig:
    """The settings of one checkpoint's tokenizer; ``None`` where the files do not say.

    ``tokens``: ``bos_token`` … by text, with ``None`` for an explicit null. ``specials``: all control tokens named.
    ``added``: ``{id: {"content": text, "special": bool, …}}``. ``templates``: chat templates by name.
    ``end_ids``: tokens that end an answer, where a file names more than one. ``image_tokens``: ids before
    those of text.
    """

    tokenizer_class: str | None = None
    name: str = ""
    tokens: Mapping[str, str | None] = field(default_factory=dict)
    specials: frozenset[str] = frozenset()
    added: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    add_bos: bool | None = None
    add_eos: bool | None = None
    add_prefix_space: bool | None = None
    legacy: bool | None = None
    templates: Mapping[str, str] = field(default_factory=dict)
    end_ids: frozenset[int] = frozenset()
    image_tokens: int | None = None


def read_tokenizer_config(folder: Path) -> TokenizerConfig:
    """Read all JSON and template files of ``folder`` that concern its tokenizer; each may be absent."""
    path = folder / "tokenizer_config.json"
    config = read_json_if(path)
    older = read_json_if(folder / "special_tokens_map.json")
    merged = older | config
    tokens = {key: _token_text(merged[key], key, path) for key in NAMED if key in merged}
    if config.get("eos_token") is None and older.get("eos_token") is not None:
        tokens["eos_token"] = _token_text(older["eos_token"], "eos_token", folder / "special_tokens_map.json")
    named = [_token_text(merged[key], key, path) for key in (*NAMED, *MORE_NAMED) if key in merged]
    more = [*_as_list(config.get("additional_special_tokens")), *_as_list(older.get("additional_special_tokens"))]
    named += [_token_text(entry, "additional_special_tokens", path) for entry in more]
    added = _added_tokens(config, read_json_if(folder / "added_tokens.json"), path)
    specials = {word for word in named if word} | {e["content"] for e in added.values() if e.get("special")}
    return TokenizerConfig(
        tokenizer_class=_typed(config, "tokenizer_class", str, path),
        name=str(config.get("name_or_path") or ""),
        tokens=tokens,
        specials=frozenset(specials),
        added=added,
        add_bos=_typed(config, "add_bos_token", bool, path),
        add_eos=_typed(config, "add_eos_token", bool, path),
        add_prefix_space=_typed(config, "add_prefix_space", bool, path),
        legacy=_typed(config, "legacy", bool, path),
        templates=_templates(config, folder),
        image_tokens=_image_tokens(config, path),
    )


def _typed(config: Mapping[str, Any], key: str, kind: type, path: Path) -> Any:
    value = config.get(key)
    if value is not None and not isinstance(value, kind):
        raise CheckpointError(f"{path}: '{key}' is {value!r}, expected a {kind.__name__}")
    return value


def _image_tokens(config: Mapping[str, Any], path: Path) -> int | None:
    value: int | None = _typed(config, "num_image_tokens", int, path)
    if value is not None and not 0 <= value < 1 << 20:
        raise CheckpointError(f"{path}: 'num_image_tokens' is {value}, expected a number from 0 to 2^20")
    return value


def _as_list(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, list) else []


def _token_text(value: Any, key: str, path: Path) -> str | None:
    """A token is given as its text or as an object with ``content``."""
    if isinstance(value, Mapping):
        value = value.get("content")
    if value is not None and not isinstance(value, str):
        raise CheckpointError(f"{path}: '{key}' is {value!r}, expected a token's text")
    return value


def _added_tokens(config: Mapping[str, Any], older: Mapping[str, Any], path: Path) -> dict[int, Mapping[str, Any]]:
    added: dict[int, Mapping[str, Any]] = {}
    for content, token_id in older.items():
        if isinstance(token_id, int) and 0 <= token_id < 1 << 24:
            added[token_id] = {"content": content}
    table = config.get("added_tokens_decoder") or {}
    if not isinstance(table, Mapping):
        raise CheckpointError(f"{path}: 'added_tokens_decoder' is not an object")
    for key, entry in table.items():
        text = _token_text(entry, f"added_tokens_decoder[{key}]", path)
        if not text or not str(key).isdigit() or int(key) >= 1 << 24:
            raise CheckpointError(f"{path}: 'added_tokens_decoder' has the entry {key!r} which is no token")
        flags = entry if isinstance(entry, Mapping) else {}
        added[int(key)] = {**flags, "content": text}
    return added


def _templates(config: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Chat templates by name; the file ``chat_template.jinja`` wins over the field, as in transformers."""
    found: dict[str, str] = {}
    for value in (config.get("chat_template"), read_json_if(folder / "chat_template.json").get("chat_template")):
        if isinstance(value, str):
            found["default"] = value
        elif isinstance(value, Mapping):
            found |= {str(name): text for name, text in value.items() if isinstance(text, str)}
        elif isinstance(value, list):
            pairs = [(e.get("name"), e.get("template")) for e in value if isinstance(e, Mapping)]
            found |= {name: text for name, text in pairs if isinstance(name, str) and isinstance(text, str)}
    if (path := folder / "chat_template.jinja").is_file():
        found["default"] = read_text(path, MIB)
    more = folder / "additional_chat_templates"
    for path in sorted(more.glob("*.jinja"))[:32] if more.is_dir() else ():
        found[path.stem] = read_text(path, MIB)
    return found
