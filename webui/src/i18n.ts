import { en } from "./words/en";
import { zh } from "./words/zh";
import { useSettings } from "./store/settings";

export type Language = "en" | "zh";
export type Words = typeof en;

export const WORDS: Record<Language, Words> = { en, zh };
export const useWords = (): Words => WORDS[useSettings((s) => s.language)];

/** A number in the reader's way of writing. */
export function useNumber(): (value: number, digits?: number) => string {
  const language = useSettings((s) => s.language);
  return (value, digits = 0) =>
    new Intl.NumberFormat(language === "zh" ? "zh-CN" : "en", {
      maximumFractionDigits: digits,
      minimumFractionDigits: 0,
    }).format(value);
}
