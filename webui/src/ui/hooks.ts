import { useEffect, useRef, useSyncExternalStore } from "react";
import { useSettings } from "../store/settings";

const narrow = window.matchMedia("(max-width: 860px)");

/** Whether this is a phone's width: the side panels then lie above the chat. */
export const useNarrow = (): boolean =>
  useSyncExternalStore(
    (tell) => {
      narrow.addEventListener("change", tell);
      return () => narrow.removeEventListener("change", tell);
    },
    () => narrow.matches,
  );

const dark = window.matchMedia("(prefers-color-scheme: dark)");

export function useDark(): boolean {
  const theme = useSettings((s) => s.theme);
  const system = useSyncExternalStore(
    (tell) => {
      dark.addEventListener("change", tell);
      return () => dark.removeEventListener("change", tell);
    },
    () => dark.matches,
  );
  return theme === "auto" ? system : theme === "dark";
}

/** The newest `callback`, without making those who hold it new. */
export function useLatest<T>(value: T): { readonly current: T } {
  const place = useRef(value);
  useEffect(() => void (place.current = value));
  return place;
}
