import { purify } from "./render";

type Hljs = typeof import("./highlight").hljs;
type Katex = typeof import("./katex").katex;

let hljs: Hljs | null = null;
let katex: Katex | null = null;
const waiting = new Set<() => void>();

/** Both are large and seldom needed: they come when the first text asks for them. */
const fetchHljs = once(() => import("./highlight").then((m) => void (hljs = m.hljs)));
const fetchKatex = once(() => import("./katex").then((m) => void (katex = m.katex)));

function once(load: () => Promise<void>): () => void {
  let begun = false;
  return () => {
    if (begun) return;
    begun = true;
    load().then(
      () => [...waiting].forEach((tell) => tell()),
      () => (begun = false),
    );
  };
}

/** Be told when something that was missing has come. */
export function whenBetter(tell: () => void): () => void {
  waiting.add(tell);
  return () => void waiting.delete(tell);
}

export interface Words {
  copy: string;
}

/** Code gets colours and a button, formulas are drawn, tables may scroll. */
export function enhance(root: DocumentFragment, words: Words): void {
  for (const pre of root.querySelectorAll("pre")) dress(pre, words);
  for (const table of root.querySelectorAll("table")) {
    const box = document.createElement("div");
    box.className = "table-box";
    table.replaceWith(box);
    box.append(table);
  }
  for (const place of root.querySelectorAll<HTMLElement>(".math")) draw(place);
}

const MAX_COLOURED = 40_000;

function dress(pre: HTMLPreElement, words: Words): void {
  const code = pre.querySelector("code");
  const language = /language-([\w+#.-]+)/.exec(code?.className ?? "")?.[1] ?? "text";
  const box = document.createElement("div");
  box.className = "code-box";
  const bar = document.createElement("div");
  bar.className = "code-bar";
  const name = document.createElement("span");
  name.textContent = language === "text" ? "" : language;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "code-copy";
  button.textContent = words.copy;
  bar.append(name, button);
  pre.replaceWith(box);
  box.append(bar, pre);
  if (code && language !== "text") colour(code, language);
}

function colour(code: HTMLElement, language: string): void {
  if (!hljs) return fetchHljs();
  const text = code.textContent ?? "";
  if (text.length > MAX_COLOURED || !hljs.getLanguage(language)) return;
  const { value } = hljs.highlight(text, { language, ignoreIllegals: true });
  code.replaceChildren(purify(value));
}

const MAX_TEX = 10_000;

function draw(place: HTMLElement): void {
  const tex = place.textContent ?? "";
  if (!katex) return fetchKatex();
  if (tex.length > MAX_TEX) return;
  const displayMode = place.classList.contains("math-display");
  try {
    // Drawn as DOM, not as a string: the policy of the page allows no style attributes in HTML.
    katex.render(tex, place, {
      displayMode, throwOnError: true, trust: false, strict: "ignore", maxSize: 20, maxExpand: 300, output: "htmlAndMathml",
    });
    place.classList.add("math-drawn");
  } catch {
    place.textContent = displayMode ? `$$${tex}$$` : `$${tex}$`;
  }
}
