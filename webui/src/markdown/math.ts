import type { TokenizerAndRendererExtension } from "marked";

/**
 * `$…$` and `\(…\)` in a line, `$$…$$` and `\[…\]` on their own, as spans that keep the TeX for KaTeX to draw. A dollar
 * sign is one of money unless it touches what it encloses and no digit follows the closing one.
 */
const escape = (text: string): string => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

const BLOCK = [/^ {0,3}\$\$([\s\S]+?)\$\$[ \t]*(?:\n+|$)/, /^ {0,3}\\\[([\s\S]+?)\\\][ \t]*(?:\n+|$)/];
const DISPLAY = [/^\$\$([^\n]+?)\$\$/, /^\\\[([\s\S]+?)\\\]/];
const INLINE = [/^\$(?![\s$])((?:\\.|[^\\\n$])*?[^\\\s$])\$(?!\d)/, /^\$([^\s$\\])\$(?!\d)/, /^\\\(([\s\S]+?)\\\)/];

function first(rules: RegExp[], src: string): RegExpExecArray | null {
  for (const rule of rules) {
    const found = rule.exec(src);
    if (found) return found;
  }
  return null;
}

export const math: TokenizerAndRendererExtension[] = [
  {
    name: "mathBlock",
    level: "block",
    start: (src) => (src.search(/^ {0,3}(?:\$\$|\\\[)/m) + 1 || 0) - 1 || undefined,
    tokenizer(src) {
      const found = first(BLOCK, src);
      return found ? { type: "mathBlock", raw: found[0], text: found[1]!.trim() } : undefined;
    },
    renderer: (token) => `<div class="math math-display">${escape(token.text)}</div>`,
  },
  {
    name: "mathInline",
    level: "inline",
    start: (src) => {
      const at = src.search(/\$|\\\(|\\\[/);
      return at < 0 ? undefined : at;
    },
    tokenizer(src) {
      const display = first(DISPLAY, src);
      const found = display ?? first(INLINE, src);
      if (!found) return undefined;
      return { type: "mathInline", raw: found[0], text: found[1]!.trim(), display: display !== null };
    },
    renderer: (token) => `<span class="math${token.display ? " math-display" : ""}">${escape(token.text)}</span>`,
  },
];
