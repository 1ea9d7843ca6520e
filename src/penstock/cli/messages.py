"""What the interactive parts say, in English and Chinese."""

from __future__ import annotations

import os

TEXTS: dict[str, tuple[str, str]] = {
    "welcome": (
        "/help lists the commands. Ctrl-C stops an answer, Ctrl-D ends.",
        "输入 /help 查看命令。Ctrl-C 停止当前回答，Ctrl-D 退出。",
    ),
    "help": (
        """/help                this text
/system TEXT         set the system prompt (no TEXT: show it; none: remove it)
/set NAME VALUE      set a sampling parameter: /set temperature 0.3, or default
/show                model, system prompt and sampling parameters
/clear               forget the conversation
/regen               answer the last message again
/stats               figures of the last answer
/save FILE           keep the conversation in a file
/load FILE           go on with a kept conversation
/exit                leave (also /quit, /bye, Ctrl-D)
Several lines: end a line with \\, or put the message between two \"\"\".
Tab completes commands, the arrow keys bring back what was typed.""",
        """/help                显示本帮助
/system 文本         设置系统提示词（不带文本则显示；none 删除）
/set 名称 值         设置采样参数，如 /set temperature 0.3（default 恢复默认）
/show                显示模型、系统提示词和采样参数
/clear               清空对话
/regen               重新回答上一条消息
/stats               上一个回答的统计
/save 文件           保存对话
/load 文件           载入已保存的对话
/exit                退出（也可用 /quit、/bye、Ctrl-D）
多行输入：行尾加 \\ 续行，或用三个引号（\"\"\"）开头和结尾。
Tab 补全命令，方向键找回输入过的内容。""",
    ),
    "stopped": ("[stopped]", "[已停止]"),
    "cut": (
        "[the answer reached its limit of {limit} tokens: /set max_tokens raises it]",
        "[回答达到上限 {limit} 个 token：可用 /set max_tokens 调高]",
    ),
    "context full": (
        "[the context of {context} tokens is full: /clear starts anew, --max-model-len gives more]",
        "[上下文 {context} 个 token 已满：/clear 重新开始，或用 --max-model-len 调大]",
    ),
    "dropped": (
        "[the conversation outgrew the context of {context} tokens: the oldest {count} messages are left out]",
        "[对话超出上下文 {context} 个 token：已省略最早的 {count} 条消息]",
    ),
    "leave": ("(Ctrl-D or /exit ends)", "（按 Ctrl-D 或输入 /exit 退出）"),
    "cleared": ("The conversation is forgotten.", "对话已清空。"),
    "nothing to repeat": ("There is no message to answer again.", "没有可重新回答的消息。"),
    "no answer yet": ("There is no answer yet.", "还没有回答。"),
    "system is": ("system: {system}", "系统提示词：{system}"),
    "system none": ("No system prompt.", "没有系统提示词。"),
    "set": ("{name} = {value}", "{name} = {value}"),
    "no such parameter": (
        "there is no parameter {name}{hint}; /show lists all",
        "没有名为 {name} 的参数{hint}；/show 列出全部参数",
    ),
    "set usage": ("usage: /set NAME VALUE; /show lists the names", "用法：/set 名称 值；/show 列出可用名称"),
    "file usage": ("usage: {command} FILE", "用法：{command} 文件"),
    "saved": ("{count} messages kept in {file}", "已将 {count} 条消息保存到 {file}"),
    "loaded": ("{count} messages from {file}", "已从 {file} 载入 {count} 条消息"),
    "cannot write": ("cannot write {file}: {why}", "无法写入 {file}：{why}"),
    "cannot read": ("cannot read {file}: {why}", "无法读取 {file}：{why}"),
    "unknown command": ("unknown command {name}{hint}; /help lists all", "未知命令 {name}{hint}；/help 列出全部命令"),
    "input tokens": ("input tokens", "输入总token数"),
    "output tokens": ("output tokens", "输出总tokens数"),
    "output seconds": ("seconds", "输出耗时 s"),
    "output speed": ("tokens/s", "输出tokens/s"),
    "ttft": ("time to first token (TTFT) s", "首token耗时 (TTFT) s"),
}
"""By key: English, Chinese."""


def language() -> str:
    """``zh`` when the locale is Chinese, else ``en``."""
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        value = os.environ.get(name, "")
        if value:
            return "zh" if value.lower().startswith("zh") else "en"
    return "en"


def say(key: str, **values: object) -> str:
    """The text of ``key`` in the user's language."""
    return TEXTS[key][language() == "zh"].format(**values)
