import { Check, ChevronLeft, ChevronRight, Copy, CornerDownRight, Pencil, RefreshCw } from "lucide-react";
import { memo, useRef, useState } from "react";
import { useNumber, useWords } from "../i18n";
import { useChats } from "../store/chats";
import { answer, proceed, say, speed } from "../store/generate";
import { children } from "../store/tree";
import type { Chat, Node, Stats } from "../store/types";
import { copyText } from "./clipboard";
import { useGrow } from "./Composer";
import { FailureCard } from "./FailureCard";
import { Markdown } from "./Markdown";

interface Props {
  chat: Chat;
  node: Node;
  last: boolean;
  writing: boolean;
  editing: boolean;
  onEdit: (id: string | null) => void;
}

export const Message = memo(
  function Message({ chat, node, last, writing, editing, onEdit }: Props) {
    const words = useWords();
    const mine = node.role === "user";
    const className = `message ${node.role}${last ? " last" : ""}`;
    if (mine) {
      return (
        <article className={className} aria-label={words.userSays}>
          {editing ? (
            <Editor node={node} chat={chat.id} onDone={() => onEdit(null)} />
          ) : (
            <div className="bubble">{node.content}</div>
          )}
          {editing ? null : (
            <div className="actions">
              <Switcher chat={chat} node={node} />
              <CopyButton text={node.content} />
              <button className="icon-button small-icon" aria-label={words.edit} title={words.edit} onClick={() => onEdit(node.id)}>
                <Pencil size={15} />
              </button>
            </div>
          )}
        </article>
      );
    }
    const retry = () => {
      if (node.content === "") useChats.getState().removeNode(chat.id, node.id);
      answer(chat.id, node.parent!);
    };
    return (
      <article className={className} aria-label={words.modelSays} aria-busy={writing}>
        {node.reasoning ? <Thoughts text={node.reasoning} thinking={writing && node.content === ""} /> : null}
        {node.content ? <Markdown text={node.content} /> : null}
        {writing && node.content === "" && !node.reasoning ? (
          <div className="dots" role="status" aria-label={words.waiting}>
            <i /> <i /> <i />
          </div>
        ) : null}
        {node.failure ? <FailureCard failure={node.failure} onRetry={retry} /> : null}
        {writing ? null : (
          <div className="actions">
            <Figures node={node} />
            <Switcher chat={chat} node={node} />
            {node.content ? <CopyButton text={node.content} /> : null}
            {node.failure ? null : (
              <button className="icon-button small-icon" aria-label={words.regenerate} title={words.regenerate}
                onClick={() => answer(chat.id, node.parent!)}>
                <RefreshCw size={15} />
              </button>
            )}
            {last && node.content && !node.failure && node.finish !== "stop" && node.finish !== "tool_calls" ? (
              <button className="chip" onClick={() => proceed(chat.id, node)}>
                <CornerDownRight size={14} /> {words.proceed}
              </button>
            ) : null}
          </div>
        )}
      </article>
    );
  },
  (a, b) =>
    a.node === b.node && a.last === b.last && a.writing === b.writing && a.editing === b.editing &&
    a.onEdit === b.onEdit && siblingsOf(a) === siblingsOf(b),
);

const siblingsOf = ({ chat, node }: Props): number =>
  Object.values(chat.nodes).reduce((count, other) => count + (other.parent === node.parent ? 1 : 0), 0);

function Switcher({ chat, node }: { chat: Chat; node: Node }) {
  const words = useWords();
  const all = children(chat, node.parent);
  if (all.length < 2) return null;
  const at = all.findIndex((other) => other.id === node.id);
  const to = (step: number) => useChats.getState().switchTo(chat.id, node.id, step);
  return (
    <span className="switcher">
      <button className="icon-button small-icon" aria-label={words.previous} disabled={at === 0} onClick={() => to(-1)}>
        <ChevronLeft size={16} />
      </button>
      <span>
        {at + 1}/{all.length}
      </span>
      <button className="icon-button small-icon" aria-label={words.next} disabled={at === all.length - 1} onClick={() => to(1)}>
        <ChevronRight size={16} />
      </button>
    </span>
  );
}

function CopyButton({ text }: { text: string }) {
  const words = useWords();
  const [done, setDone] = useState(false);
  const copy = () =>
    void copyText(text).then((copied) => {
      setDone(copied);
      setTimeout(() => setDone(false), 1500);
    });
  const name = done ? words.copied : words.copy;
  return (
    <button className="icon-button small-icon" aria-label={name} title={name} onClick={copy}>
      {done ? <Check size={15} /> : <Copy size={15} />}
    </button>
  );
}

function Editor({ node, chat, onDone }: { node: Node; chat: string; onDone: () => void }) {
  const words = useWords();
  const [text, setText] = useState(node.content);
  const field = useRef<HTMLTextAreaElement>(null);
  useGrow(field, text);
  const ready = text.trim() !== "";
  const save = () => {
    if (!ready) return;
    say(chat, node.parent, text.trim());
    onDone();
  };
  return (
    <form
      className="editor"
      onSubmit={(event) => {
        event.preventDefault();
        save();
      }}
    >
      <textarea
        ref={field}
        value={text}
        aria-label={words.edit}
        autoFocus
        onFocus={(e) => e.target.setSelectionRange(text.length, text.length)}
        onChange={(e) => setText(e.target.value)}
        onKeyDown={(event) => {
          if (event.nativeEvent.isComposing || event.keyCode === 229) return;
          if (event.key === "Enter" && !event.shiftKey) {
            event.preventDefault();
            save();
          } else if (event.key === "Escape") {
            event.preventDefault();
            onDone();
          }
        }}
      />
      <div className="editor-foot">
        <span className="quiet small">{words.editHint}</span>
        <button type="button" className="button" onClick={onDone}>
          {words.cancel}
        </button>
        <button type="submit" className="button primary" disabled={!ready}>
          {words.resend}
        </button>
      </div>
    </form>
  );
}

function Thoughts({ text, thinking }: { text: string; thinking: boolean }) {
  const words = useWords();
  return (
    <details className="thoughts" open={thinking || undefined}>
      <summary>{thinking ? words.thinking : words.thoughts}</summary>
      <Markdown text={text} />
    </details>
  );
}

/** Speed, first token, length and context of an answer. */
function Figures({ node }: { node: Node }) {
  const words = useWords();
  const number = useNumber();
  const { stats } = node;
  const parts: [string, string?][] = [];
  if (node.finish === "length") parts.push([words.endedByLength]);
  if (node.finish === "stopped") parts.push([words.endedByYou]);
  if (stats) parts.push(...figures(stats, words, number));
  if (parts.length === 0) return null;
  return (
    <span className="figures" data-figures>
      {parts.map(([text, hint]) => (
        <span key={text} title={hint}>
          {text}
        </span>
      ))}
    </span>
  );
}

function figures(
  stats: Stats,
  words: ReturnType<typeof useWords>,
  number: (value: number, digits?: number) => string,
): [string, string?][] {
  const found: [string, string?][] = [];
  const rate = speed(stats);
  const about = stats.exact ? "" : "≈ ";
  if (rate !== null) found.push([`${about}${number(rate, rate < 10 ? 1 : 0)} ${words.perSecond}`]);
  if (stats.ttft !== null) found.push([`${words.ttft} ${milliseconds(stats.ttft, number)}`]);
  found.push([`${about}${words.tokens(number(stats.completion))}`]);
  if (stats.prompt !== null && stats.context) {
    const used = stats.prompt + stats.completion;
    const share = number((used / stats.context) * 100, used / stats.context < 0.1 ? 1 : 0);
    const hint = [words.contextUsed(number(used), number(stats.context))];
    if (stats.cached) hint.push(words.cachedTokens(number(stats.cached)));
    found.push([`${words.context} ${share} %`, hint.join("\n")]);
  }
  return found;
}

const milliseconds = (ms: number, number: (value: number, digits?: number) => string): string =>
  ms < 1000 ? `${number(ms)} ms` : `${number(ms / 1000, 2)} s`;
