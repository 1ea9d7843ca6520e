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

export const loadChats = async (): Promise<Chat[]> => (await database()).getAll("chats");
export const saveChat = async (chat: Chat): Promise<unknown> => (await database()).put("chats", chat);
export const dropChat = async (id: string): Promise<void> => (await database()).delete("chats", id);
export const dropAll = async (): Promise<void> => (await database()).clear("chats");
