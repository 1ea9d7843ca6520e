import { create } from "zustand";
import * as db from "./db";
import { newId } from "./id";
import { useSettings } from "./settings";
import { pruned, switched, titleOf, withChange, withNode } from "./tree";
import type { Chat, Node, Setup } from "./types";

interface Chats {
  loaded: boolean;
  chats: Record<string, Chat>;
  /** Messages that are being written, and how to stop them. */
  running: Record<string, AbortController>;
  load: () => Promise<void>;
  create: (firstWords: string) => Chat;
  add: (chat: string, node: Omit<Node, "id" | "created">) => Node;
  change: (chat: string, node: string, change: Partial<Node>, keep?: boolean) => void;
  switchTo: (chat: string, node: string, step: number) => void;
  removeNode: (chat: string, node: string) => void;
  rename: (chat: string, title: string) => void;
  setSetup: (chat: string, setup: Setup) => void;
  remove: (chat: string) => void;
  removeAll: () => void;
  restore: (chats: Chat[]) => void;
  started: (node: string, stop: AbortController) => void;
  ended: (node: string) => void;
}

/** Storage that fails (private windows, full disks) must not end a chat: it then lives as long as the page. */
const quietly = (work: Promise<unknown>): void => void work.catch((error) => console.warn("history:", error));

let last = 0;
/** Now, and never the same twice: siblings are ordered by it. */
export function now(): number {
  last = Math.max(Date.now(), last + 1);
  return last;
}

export const useChats = create<Chats>((set, get) => {
  const put = (chat: Chat, keep = true): void => {
    set({ chats: { ...get().chats, [chat.id]: chat } });
    if (keep) quietly(db.saveChat(chat));
  };
  const update = (id: string, change: (chat: Chat) => Chat, keep = true): void => {
    const chat = get().chats[id];
    if (chat) put(change(chat), keep);
  };
  /** Another tab has changed a chat. One that is being written here is left alone: its end will be stored. */
  const follow = async (id: string | null): Promise<void> => {
    if (id === null) return set({ chats: {} });
    const mine = get().chats[id];
    if (Object.keys(mine?.nodes ?? {}).some((node) => node in get().running)) return;
    const theirs = await db.loadChat(id);
    const { [id]: _, ...rest } = get().chats;
    set({ chats: theirs ? { ...rest, [id]: theirs } : rest });
  };
  return {
    loaded: false,
    chats: {},
    running: {},
    load: async () => {
      try {
        const kept = await db.loadChats();
        set({ chats: { ...Object.fromEntries(kept.map((c) => [c.id, c])), ...get().chats } });
      } catch (error) {
        console.warn("history:", error);
      }
      set({ loaded: true });
      db.whenChanged((id) => quietly(follow(id)));
    },
    create: (firstWords) => {
      const time = now();
      const chat: Chat = {
        id: newId(),
        title: titleOf(firstWords),
        named: false,
        created: time,
        updated: time,
        setup: useSettings.getState().setup,
        nodes: {},
        chosen: {},
      };
      put(chat);
      return chat;
    },
    add: (id, node) => {
      const full: Node = { ...node, id: newId(), created: now() };
      update(id, (chat) => withNode(chat, full));
      return full;
    },
    change: (id, node, change, keep = true) => update(id, (chat) => withChange(chat, node, change), keep),
    switchTo: (id, node, step) => update(id, (chat) => switched(chat, node, step)),
    removeNode: (id, node) => update(id, (chat) => pruned(chat, node)),
    rename: (id, title) =>
      update(id, (chat) => ({ ...chat, title: title.trim().slice(0, 200) || chat.title, named: true })),
    setSetup: (id, setup) => update(id, (chat) => ({ ...chat, setup })),
    remove: (id) => {
      const { [id]: gone, ...chats } = get().chats;
      for (const node of Object.keys(gone?.nodes ?? {})) get().running[node]?.abort();
      set({ chats });
      quietly(db.dropChat(id));
    },
    removeAll: () => {
      for (const stop of Object.values(get().running)) stop.abort();
      set({ chats: {} });
      quietly(db.dropAll());
    },
    restore: (chats) => chats.forEach((chat) => put(chat)),
    started: (node, stop) => set({ running: { ...get().running, [node]: stop } }),
    ended: (node) => {
      const { [node]: _, ...running } = get().running;
      set({ running });
    },
  };
});
