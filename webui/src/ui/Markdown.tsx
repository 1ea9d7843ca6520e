import { memo, useLayoutEffect, useMemo, useReducer, useRef, type MouseEvent } from "react";
import { useWords } from "../i18n";
import { enhance, whenBetter } from "../markdown/enhance";
import { blocks, render, type Block } from "../markdown/render";
import { copyText } from "./clipboard";

/** A text that may still grow: only blocks that changed are drawn again. */
export function Markdown({ text }: { text: string }) {
  const parts = useMemo(() => blocks(text), [text]);
  const words = useWords();

  const copy = (event: MouseEvent) => {
    const button = event.target instanceof Element ? event.target.closest(".code-copy") : null;
    const code = button?.closest(".code-box")?.querySelector("code")?.textContent;
    if (!button || code === undefined || code === null) return;
    void copyText(code.replace(/\n$/, "")).then((done) => {
      if (!done) return;
      button.textContent = words.copied;
      setTimeout(() => (button.textContent = words.copy), 1500);
    });
  };

  return (
    <div className="markdown" onClick={copy}>
      {parts.map((block, i) => (
        <Part key={i} block={block} copy={words.copy} />
      ))}
    </div>
  );
}

const Part = memo(
  function Part({ block, copy }: { block: Block; copy: string }) {
    const place = useRef<HTMLDivElement>(null);
    const [version, redraw] = useReducer((n: number) => n + 1, 0);
    useLayoutEffect(() => {
      const drawn = render(block);
      enhance(drawn, { copy });
      place.current!.replaceChildren(drawn);
    }, [block.raw, copy, version]);
    useLayoutEffect(() => (needsMore(block.raw) ? whenBetter(redraw) : undefined), [block.raw]);
    return <div className="block" ref={place} />;
  },
  (a, b) => a.block.raw === b.block.raw && a.copy === b.copy,
);

const needsMore = (raw: string): boolean => /```|~~~|\$|\\\(|\\\[/.test(raw);
