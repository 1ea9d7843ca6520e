import { useSyncExternalStore } from "react";

export type Route = { page: "chat"; chat: string | null } | { page: "engine" };

function subscribe(tell: () => void): () => void {
  window.addEventListener("hashchange", tell);
  return () => window.removeEventListener("hashchange", tell);
}

export function routeOf(hash: string): Route {
  if (hash === "#/engine") return { page: "engine" };
  const found = /^#\/c\/([\w-]{1,64})$/.exec(hash);
  return { page: "chat", chat: found?.[1] ?? null };
}

export const useRoute = (): Route => routeOf(useSyncExternalStore(subscribe, () => location.hash));

export const go = {
  newChat: (): void => void (location.hash = "#/"),
  chat: (id: string): void => void (location.hash = `#/c/${id}`),
  engine: (): void => void (location.hash = "#/engine"),
};
