import { lazy, Suspense, useEffect, useState } from "react";
import { useWords } from "../i18n";
import { useChats } from "../store/chats";
import { stop } from "../store/generate";
import { useServer } from "../store/server";
import { useSettings } from "../store/settings";
import { ChatView } from "./ChatView";
import { HelpDialog, KeyDialog } from "./dialogs";
import { useDark, useLatest, useNarrow } from "./hooks";
import { Notice } from "./Notice";
import { go, useRoute } from "./route";
import { Drawer } from "./Drawer";
import { Sidebar } from "./Sidebar";

const Engine = lazy(() => import("../engine/Engine").then((m) => ({ default: m.Engine })));
const REFRESH = 20_000;

export function App() {
  const route = useRoute();
  const words = useWords();
  const narrow = useNarrow();
  const language = useSettings((s) => s.language);
  const dark = useDark();
  const [menu, setMenu] = useState(false);
  const [help, setHelp] = useState(false);

  useEffect(() => {
    void useChats.getState().load();
    const refresh = () => document.hidden || void useServer.getState().refresh();
    refresh();
    const timer = setInterval(refresh, REFRESH);
    document.addEventListener("visibilitychange", refresh);
    return () => {
      clearInterval(timer);
      document.removeEventListener("visibilitychange", refresh);
    };
  }, []);

  useEffect(() => {
    document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
    document.documentElement.dataset.theme = dark ? "dark" : "light";
  }, [language, dark]);

  const chatId = route.page === "chat" ? route.chat : null;
  const keys = useLatest((event: KeyboardEvent) => {
    const control = event.ctrlKey || event.metaKey;
    const act = (work: () => void) => {
      event.preventDefault();
      work();
    };
    if (control && event.key === "/") act(() => setHelp((h) => !h));
    else if (control && event.shiftKey && event.key.toLowerCase() === "o") act(go.newChat);
    else if (control && event.key.toLowerCase() === "k")
      act(() => {
        setMenu(true);
        setTimeout(() => document.querySelector<HTMLInputElement>("[data-search]")?.focus(), 60);
      });
    else if (control && event.key === ".")
      act(() => useSettings.getState().set({ panel: !useSettings.getState().panel }));
    else if (event.key === "Escape" && !event.defaultPrevented && !document.querySelector("[role=dialog],[role=menu]")) {
      if (chatId) stop(chatId);
    }
  });
  useEffect(() => {
    const listen = (event: KeyboardEvent) => keys.current(event);
    window.addEventListener("keydown", listen);
    return () => window.removeEventListener("keydown", listen);
  }, [keys]);

  useEffect(() => setMenu(false), [route.page, chatId]);

  const sidebar = <Sidebar route={route} onHelp={() => setHelp(true)} onGo={() => setMenu(false)} />;
  return (
    <div className="app">
      <a className="skip" href="#composer" onClick={(e) => (e.preventDefault(), document.getElementById("composer")?.focus())}>
        {words.skip}
      </a>
      {narrow ? (
        <Drawer open={menu} onOpenChange={setMenu} side="left" title={words.menu}>
          {sidebar}
        </Drawer>
      ) : (
        <aside className="sidebar">{sidebar}</aside>
      )}
      {route.page === "engine" ? (
        <Suspense fallback={<main className="main" />}>
          <Engine onMenu={narrow ? () => setMenu(true) : undefined} dark={dark} />
        </Suspense>
      ) : (
        <ChatView key={chatId ?? "new"} chatId={chatId} onMenu={narrow ? () => setMenu(true) : undefined} />
      )}
      <KeyDialog />
      <HelpDialog open={help} onOpenChange={setHelp} />
      <Notice />
    </div>
  );
}
