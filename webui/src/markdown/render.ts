import DOMPurify from "dompurify";
import { Marked, type Token, type TokensList } from "marked";
import { math } from "./math";

/**
 * A model's Markdown as DOM. What a model writes may be an attack: no raw HTML (it is shown as text), nothing that the
 * browser fetches by itself (images become links), links only to the web and only in a new tab. DOMPurify has the last
 * word, and the page's content security policy stands behind it.
 */
const escape = (text: string): string =>
  text.replace(/[&<>"']/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" })[c]!);

const SAFE_URL = /^(?:https?:\/\/|mailto:)/i;

function link(href: string, html: string, title = href): string {
  if (!SAFE_URL.test(href.trim())) return html;
  return `<a href="${escape(href.trim())}" title="${escape(title)}" target="_blank" rel="noopener noreferrer nofollow">${html}</a>`;
}

const marked = new Marked({
  gfm: true,
  breaks: true,
  extensions: math,
  renderer: {
    html: ({ text }) => escape(text),
    link(token) {
      return link(token.href, this.parser.parseInline(token.tokens));
    },
    image: ({ href, text }) => link(href, `🖼 ${escape(text || href)}`) || escape(text),
    checkbox: ({ checked }) => `<span class="task">${checked ? "☑" : "☐"}</span> `,
    code({ text, lang }) {
      const name = /^[\w+#.-]{1,30}/.exec(lang ?? "")?.[0]?.toLowerCase() ?? "";
      return `<pre><code class="language-${escape(name || "text")}">${escape(text)}\n</code></pre>`;
    },
  },
});

const TAGS = [
  "a", "b", "blockquote", "br", "code", "del", "div", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "li", "ol",
  "p", "pre", "s", "span", "strong", "sub", "sup", "table", "tbody", "td", "th", "thead", "tr", "ul",
];
const ATTRIBUTES = ["href", "title", "target", "rel", "class", "start", "align"];

/** Clean DOM of HTML, by DOMPurify. */
export function purify(html: string): DocumentFragment {
  return DOMPurify.sanitize(html, {
    ALLOWED_TAGS: TAGS,
    ALLOWED_ATTR: ATTRIBUTES,
    ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false,
    ALLOWED_URI_REGEXP: SAFE_URL,
    ADD_URI_SAFE_ATTR: ["target", "rel", "align", "start", "title"],
    RETURN_DOM_FRAGMENT: true,
  });
}

/** A piece of a text that can be drawn by itself; a text that grows changes only its last one. */
export interface Block {
  raw: string;
  tokens: Token[];
  links: TokensList["links"];
}

export function blocks(text: string): Block[] {
  const tokens = marked.lexer(text);
  return tokens
    .filter((token) => token.type !== "space" && token.type !== "def")
    .map((token) => ({ raw: token.raw, tokens: [token], links: tokens.links }));
}

export function render(block: Block): DocumentFragment {
  return purify(marked.parser(block.tokens));
}
