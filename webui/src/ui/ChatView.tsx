import { ArrowDown, Menu as MenuIcon, SlidersHorizontal } from "lucide-react";
import { useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from "react";
import { useNumber, useWords } from "../i18n";
import { useChats } from "../store/chats";
import { say, stop } from "../store/generate";
import { contextOf, useServer } from "../store/server";
import { useSettings } from "../store/settings";
import { path } from "../store/tree";
import type { Setup } from "../store/types";
import { Composer } from "./Composer";
import { Drawer } from "./Drawer";
import { useNarrow } from "./hooks";
import { Message } from "./Message";
import { ModelSelect } from "./ModelSelect";
import { Panel } from "./Panel";
import { go } from "./route";

interface Props {
  chatId: string | null;
  onMenu: (() => void) | undefined;
}

export function ChatView({ chatId, onMenu }: Props) {
  const words = useWords();
  const narrow = useNarrow();
  const { panel, setup: draft, set } = useSettings();
  const chat = useChats((s) => (chatId ? s.chats[chatId] : undefined));
  const loaded = useChats((s) => s.loaded);
  const running = useChats((s) => s.running);
  const setup = chat?.setup ?? draft;
  const shown = useMemo(() => (chat ? path(chat) : []), [chat]);
  const last = shown.at(-1);
  const busy = last !== undefined && last.id in running;
  const [editing, setEditing] = useState<string | null>(null);

  useEffect(() => {
    if (loaded && chatId && !chat) go.newChat();
  }, [loaded, chatId, chat]);

  const title = chat?.title;
  useEffect(() => void (document.title = title ? `${title} – penstock` : "penstock"), [title]);

  const change = useCallback(
    (next: Setup) => {
      set({ setup: next });
      if (chatId) useChats.getState().setSetup(chatId, next);
    },
    [chatId, set],
  );

  const send = (text: string) => {
    const target = chat ?? useChats.getState().create(text);
    say(target.id, last?.id ?? null, text);
    if (!chat) go.chat(target.id);
  };

  const { view, inner, atEnd, toEnd } = useStickyScroll(chatId);
  const editLast = () => {
    const mine = shown.filter((node) => node.role === "user").at(-1);
    if (mine && !busy) setEditing(mine.id);
  };
  const panelBody = <Panel setup={setup} onChange={change} onClose={() => set({ panel: false })} />;

  return (
    <>
      <main className="main">
        <header className="top">
          {onMenu ? (
            <button className="icon-button" aria-label={words.menu} onClick={onMenu}>
              <MenuIcon size={20} />
            </button>
          ) : null}
          <ModelSelect value={setup.model} onChange={(model) => change({ ...setup, model })} />
          <ContextMeter stats={shown.findLast((node) => node.stats)?.stats} />
          <button
            className={panel ? "icon-button on" : "icon-button"}
            aria-label={words.parameters}
            title={`${words.parameters} (Ctrl .)`}
            aria-pressed={panel}
            onClick={() => set({ panel: !panel })}
          >
            <SlidersHorizontal size={19} />
          </button>
        </header>
        <div className="scroll" ref={view}>
          <div className="column" ref={inner}>
            {shown.length === 0 ? (
              <Greeting onPick={send} />
            ) : (
              <div role="log" aria-label={words.chat}>
                {shown.map((node) => (
                  <Message
                    key={node.id}
                    chat={chat!}
                    node={node}
                    last={node.id === last?.id}
                    writing={node.id in running}
                    editing={editing === node.id}
                    onEdit={setEditing}
                  />
                ))}
              </div>
            )}
          </div>
        </div>
        <div className="foot">
          {atEnd ? null : (
            <button className="to-end" aria-label={words.scrollDown} title={words.scrollDown} onClick={toEnd}>
              <ArrowDown size={18} />
            </button>
          )}
          <Composer
            busy={busy}
            onSend={(text) => {
              send(text);
              toEnd();
            }}
            onStop={() => chatId && stop(chatId)}
            onEditLast={editLast}
          />
        </div>
      </main>
      {narrow ? (
        <Drawer open={panel} onOpenChange={(open) => set({ panel: open })} side="right" title={words.parameters}>
          {panelBody}
        </Drawer>
      ) : panel ? (
        <aside className="panel">{panelBody}</aside>
      ) : null}
    </>
  );
}

function Greeting({ onPick }: { onPick: (text: string) => void }) {
  const words = useWords();
  return (
    <div className="greeting">
      <svg className="stream" viewBox="0 0 240 60" aria-hidden>
        <path d="M2 14h60c26 0 38 10 52 24s28 18 52 18h72" />
        <path d="M2 26h54c24 0 35 8 48 18" />
        <path d="M2 38h46c18 0 28 5 38 12" />
      </svg>
      <h1>{words.greeting}</h1>
      <div className="suggestions">
        {words.suggestions.map((text) => (
          <button key={text} onClick={() => onPick(text)}>
            {text}
          </button>
        ))}
      </div>
    </div>
  );
}

function ContextMeter({ stats }: { stats: { prompt: number | null; completion: number; context: number | null } | undefined }) {
  const words = useWords();
  const number = useNumber();
  const models = useServer((s) => s.models);
  const total = stats?.context ?? contextOf(models, null);
  if (!stats || stats.prompt === null || !total) return <span className="grow" />;
  const used = stats.prompt + stats.completion;
  const share = Math.min(1, used / total);
  const text = words.contextUsed(number(used), number(total));
  return (
    <span className="grow meter-place">
      <span className="meter" role="img" aria-label={text} title={text}>
        <svg viewBox="0 0 20 20" width="18" height="18">
          <circle cx="10" cy="10" r="8" className="meter-all" />
          <circle cx="10" cy="10" r="8" className={share > 0.85 ? "meter-used high" : "meter-used"} pathLength={100}
            strokeDasharray={`${share * 100} 100`} transform="rotate(-90 10 10)" />
        </svg>
        <span className="meter-text">
          {number(used)} / {number(total)}
        </span>
      </span>
    </span>
  );
}

/** Stay at the end of what grows, unless the reader has scrolled up. */
function useStickyScroll(chatId: string | null) {
  const view = useRef<HTMLDivElement>(null);
  const inner = useRef<HTMLDivElement>(null);
  const sticky = useRef(true);
  const [atEnd, setAtEnd] = useState(true);
  const toEnd = useCallback(() => {
    sticky.current = true;
    setAtEnd(true);
    const box = view.current;
    if (box) box.scrollTop = box.scrollHeight;
  }, []);
  useLayoutEffect(() => {
    const box = view.current!;
    let before = box.scrollTop;
    const onScroll = () => {
      const gap = box.scrollHeight - box.scrollTop - box.clientHeight;
      if (box.scrollTop < before && gap > 8) sticky.current = false;
      if (gap <= 40) sticky.current = true;
      before = box.scrollTop;
      setAtEnd(gap <= 120);
    };
    const observer = new ResizeObserver(() => {
      if (sticky.current) box.scrollTop = box.scrollHeight;
      else onScroll();
    });
    observer.observe(inner.current!);
    observer.observe(box);
    box.addEventListener("scroll", onScroll, { passive: true });
    return () => {
      observer.disconnect();
      box.removeEventListener("scroll", onScroll);
    };
  }, [chatId]);
  return { view, inner, atEnd, toEnd };
}
