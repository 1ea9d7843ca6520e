import type { RefObject } from "react";
import { useWords } from "../i18n";
import { useChats } from "../store/chats";
import { exported, imported, MAX_FILE } from "../store/transfer";
import type { Chat } from "../store/types";
import { notify } from "./Notice";
import { go } from "./route";

/** Give the user a file of these chats. */
export function download(chats: Chat[], name: string): void {
  const url = URL.createObjectURL(new Blob([exported(chats)], { type: "application/json" }));
  const link = document.createElement("a");
  link.href = url;
  const safe = name.replace(/[^\p{L}\p{N} _-]+/gu, "").trim().slice(0, 60) || "chat";
  link.download = `${safe}-${new Date().toISOString().slice(0, 10)}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

/** The hidden field through which files are chosen. */
export function Transfer({ picker }: { picker: RefObject<HTMLInputElement | null> }) {
  const words = useWords();
  const read = async (file: File) => {
    try {
      if (file.size > MAX_FILE) throw new Error("> 64 MiB");
      const chats = imported(await file.text());
      useChats.getState().restore(chats);
      notify(words.imported(chats.length));
      if (chats.length === 1) go.chat(chats[0]!.id);
    } catch (error) {
      notify(words.importFailed(error instanceof Error ? error.message : String(error)), true);
    }
  };
  return (
    <input
      ref={picker}
      className="unseen"
      type="file"
      accept=".json,application/json"
      aria-label={words.importChats}
      tabIndex={-1}
      onChange={(event) => {
        const file = event.target.files?.[0];
        event.target.value = "";
        if (file) void read(file);
      }}
    />
  );
}
