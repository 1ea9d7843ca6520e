import { create } from "zustand";
import type { Language } from "../i18n";
import { readParams } from "./transfer";
import { EMPTY_SETUP, type Setup } from "./types";

export type Theme = "auto" | "light" | "dark";

interface Settings {
  language: Language;
  theme: Theme;
  panel: boolean;
  /** What new chats begin with. */
  setup: Setup;
  set: (change: Partial<Omit<Settings, "set">>) => void;
}

const PLACE = "penstock.settings";

function browserLanguage(): Language {
  const first = (navigator.languages?.[0] ?? navigator.language ?? "en").toLowerCase();
  return first.startsWith("zh") ? "zh" : "en";
}

function stored(): Omit<Settings, "set"> {
  const found = { language: browserLanguage(), theme: "auto" as Theme, panel: false, setup: EMPTY_SETUP };
  try {
    const kept = JSON.parse(localStorage.getItem(PLACE) ?? "{}");
    if (kept.language === "en" || kept.language === "zh") found.language = kept.language;
    if (["auto", "light", "dark"].includes(kept.theme)) found.theme = kept.theme;
    found.panel = kept.panel === true;
    found.setup = {
      model: typeof kept.setup?.model === "string" ? kept.setup.model : null,
      system: typeof kept.setup?.system === "string" ? kept.setup.system : "",
      params: readParams(kept.setup?.params),
    };
  } catch {
    // what cannot be read is as good as absent
  }
  return found;
}

let chosenLanguage = false;

export const useSettings = create<Settings>((set, get) => ({
  ...stored(),
  set: (change) => {
    set(change);
    chosenLanguage ||= "language" in change;
    const { language, theme, panel, setup } = get();
    const before = JSON.parse(localStorage.getItem(PLACE) ?? "{}");
    const kept = { theme, panel, setup, ...(chosenLanguage || before.language ? { language } : {}) };
    localStorage.setItem(PLACE, JSON.stringify(kept));
  },
}));
