import { Menu } from "@base-ui/react/menu";
import { Activity, Ellipsis, Search, Settings2, SquarePen } from "lucide-react";
import { useMemo, useRef, useState } from "react";
import { useWords } from "../i18n";
import { useChats } from "../store/chats";
import { useServer } from "../store/server";
import { search } from "../store/tree";
import type { Chat } from "../store/types";
import { Confirm } from "./dialogs";
import { download, Transfer } from "./files";
import { Mark } from "./Mark";
import { go, type Route } from "./route";
import { SettingsItems } from "./SettingsMenu";

interface Props {
  route: Route;
  onHelp: () => void;
  onGo: () => void;
}

export function Sidebar({ route, onHelp, onGo }: Props) {
  const words = useWords();
  const { chats, loaded } = useChats();
  const [query, setQuery] = useState("");
  const [clearing, setClearing] = useState(false);
  const picker = useRef<HTMLInputElement>(null);
  const status = useServer((s) => s.status);
  const found = useMemo(() => search(Object.values(chats), query), [chats, query]);
  const active = route.page === "chat" ? route.chat : null;
  const count = Object.keys(chats).length;

  return (
    <div className="side">
      <div className="side-head">
        <Mark />
        <button
          className="icon-button"
          aria-label={words.newChat}
          title={words.newChat}
          onClick={() => {
            go.newChat();
            onGo();
          }}
        >
          <SquarePen size={18} />
        </button>
      </div>
      <label className="search">
        <Search size={15} aria-hidden />
        <input
          type="search"
          data-search
          placeholder={words.search}
          aria-label={words.search}
          value={query}
          onChange={(e) => setQuery(e.target.value)}
        />
      </label>
      <nav className="history" aria-label={words.chat}>
        {groups(found).map(([when, members]) => (
          <section key={when}>
            <h2>{words[when]}</h2>
            <ul>
              {members.map((chat) => (
                <Entry key={chat.id} chat={chat} active={chat.id === active} onGo={onGo} />
              ))}
            </ul>
          </section>
        ))}
        {loaded && found.length === 0 ? (
          <p className="quiet small">{count ? words.nothingFound : words.noChats}</p>
        ) : null}
      </nav>
      <div className="side-foot">
        <a className={route.page === "engine" ? "engine-link on" : "engine-link"} href="#/engine" onClick={onGo}>
          <Activity size={17} />
          <span>{words.engine}</span>
          <span className={`dot ${status}`} title={words.status[status]} />
        </a>
        <Menu.Root>
          <Menu.Trigger className="icon-button" aria-label={words.menu} title={words.menu}>
            <Settings2 size={18} />
          </Menu.Trigger>
          <Menu.Portal>
            <Menu.Positioner className="positioner" side="top" align="end" sideOffset={6}>
              <Menu.Popup className="menu">
                <SettingsItems onHelp={onHelp} />
                <Menu.Separator className="menu-line" />
                <Menu.Item
                  className="menu-item"
                  disabled={count === 0}
                  onClick={() => download(Object.values(chats), "penstock-chats")}
                >
                  {words.exportAll}
                </Menu.Item>
                <Menu.Item className="menu-item" onClick={() => picker.current?.click()}>
                  {words.importChats}
                </Menu.Item>
                <Menu.Item className="menu-item danger" disabled={count === 0} onClick={() => setClearing(true)}>
                  {words.removeAll}
                </Menu.Item>
              </Menu.Popup>
            </Menu.Positioner>
          </Menu.Portal>
        </Menu.Root>
        <Transfer picker={picker} />
      </div>
      <Confirm
        open={clearing}
        onOpenChange={setClearing}
        title={words.removeAllTitle}
        text={words.removeAllText(count)}
        action={words.remove}
        onConfirm={() => {
          useChats.getState().removeAll();
          go.newChat();
        }}
      />
    </div>
  );
}

type When = "today" | "week" | "earlier";

function groups(chats: Chat[]): [When, Chat[]][] {
  const midnight = new Date().setHours(0, 0, 0, 0);
  const found: Record<When, Chat[]> = { today: [], week: [], earlier: [] };
  for (const chat of chats) {
    const when = chat.updated >= midnight ? "today" : chat.updated >= midnight - 6 * 86_400_000 ? "week" : "earlier";
    found[when].push(chat);
  }
  return (Object.entries(found) as [When, Chat[]][]).filter(([, members]) => members.length > 0);
}

function Entry({ chat, active, onGo }: { chat: Chat; active: boolean; onGo: () => void }) {
  const words = useWords();
  const [naming, setNaming] = useState(false);
  const [removing, setRemoving] = useState(false);
  const running = useChats((s) => Object.keys(chat.nodes).some((id) => id in s.running));
  const rename = (title: string) => {
    useChats.getState().rename(chat.id, title);
    setNaming(false);
  };
  if (naming) {
    return (
      <li className="entry">
        <input
          className="field slim"
          aria-label={words.rename}
          defaultValue={chat.title}
          maxLength={200}
          autoFocus
          onFocus={(e) => e.target.select()}
          onBlur={(e) => rename(e.target.value)}
          onKeyDown={(e) => {
            if (e.nativeEvent.isComposing) return;
            if (e.key === "Enter") rename(e.currentTarget.value);
            if (e.key === "Escape") {
              e.preventDefault();
              e.stopPropagation();
              setNaming(false);
            }
          }}
        />
      </li>
    );
  }
  return (
    <li className={active ? "entry on" : "entry"}>
      <a
        href={`#/c/${chat.id}`}
        onClick={onGo}
        onDoubleClick={() => setNaming(true)}
        aria-current={active ? "page" : undefined}
        title={chat.title}
      >
        {running ? <span className="pulse" /> : null}
        {chat.title || words.newChat}
      </a>
      <Menu.Root>
        <Menu.Trigger className="icon-button small-icon" aria-label={`${words.more}: ${chat.title}`}>
          <Ellipsis size={16} />
        </Menu.Trigger>
        <Menu.Portal>
          <Menu.Positioner className="positioner" align="start" sideOffset={4}>
            <Menu.Popup className="menu" finalFocus={false}>
              <Menu.Item className="menu-item" onClick={() => setTimeout(() => setNaming(true), 30)}>
                {words.rename}
              </Menu.Item>
              <Menu.Item className="menu-item" onClick={() => download([chat], chat.title)}>
                {words.exportOne}
              </Menu.Item>
              <Menu.Item className="menu-item danger" onClick={() => setRemoving(true)}>
                {words.remove}
              </Menu.Item>
            </Menu.Popup>
          </Menu.Positioner>
        </Menu.Portal>
      </Menu.Root>
      <Confirm
        open={removing}
        onOpenChange={setRemoving}
        title={words.removeTitle}
        text={words.removeText(chat.title)}
        action={words.remove}
        onConfirm={() => {
          useChats.getState().remove(chat.id);
          if (active) go.newChat();
        }}
      />
    </li>
  );
}
