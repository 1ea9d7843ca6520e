import { openDB, type DBSchema, type IDBPDatabase } from "idb";
import type { Chat } from "./types";

interface Schema extends DBSchema {
  chats: { key: string; value: Chat };
}

let opened: Promise<IDBPDatabase<Schema>> | null = null;

function database(): Promise<IDBPDatabase<Schema>> {
  opened ??= openDB<Schema>("penstock", 1, {
    upgrade: (db) => void db.createObjectStore("chats", { keyPath: "id" }),
    terminated: () => (opened = null),
  });
  return opened;
}

/** What other tabs of this page do to a chat is seen here; `null`: all are gone. */
const others = typeof BroadcastChannel === "undefined" ? null : new BroadcastChannel("penstock.chats");

export function whenChanged(tell: (id: string | null) => void): void {
  others?.addEventListener("message", (event) => tell(typeof event.data === "string" ? event.data : null));
}

export const loadChat = async (id: string): Promise<Chat | undefined> => (await database()).get("chats", id);
export const loadChats = async (): Promise<Chat[]> => (await database()).getAll("chats");

export async function saveChat(chat: Chat): Promise<void> {
  await (await database()).put("chats", chat);
  others?.postMessage(chat.id);
}

export async function dropChat(id: string): Promise<void> {
  await (await database()).delete("chats", id);
  others?.postMessage(id);
}

export async function dropAll(): Promise<void> {
  await (await database()).clear("chats");
  others?.postMessage(null);
}
