import { ArrowUp, Square } from "lucide-react";
import { useEffect, useLayoutEffect, useRef, useState } from "react";
import { useWords } from "../i18n";

interface Props {
  busy: boolean;
  onSend: (text: string) => void;
  onStop: () => void;
  onEditLast: () => void;
}

export function Composer({ busy, onSend, onStop, onEditLast }: Props) {
  const words = useWords();
  const [text, setText] = useState("");
  const field = useRef<HTMLTextAreaElement>(null);
  useGrow(field, text);
  useEffect(() => {
    if (!window.matchMedia("(pointer: coarse)").matches) field.current?.focus();
  }, []);
  const ready = text.trim() !== "" && !busy;
  const send = () => {
    if (!ready) return;
    onSend(text.trim());
    setText("");
  };
  return (
    <form
      className="composer"
      onSubmit={(event) => {
        event.preventDefault();
        send();
      }}
    >
      <textarea
        id="composer"
        ref={field}
        rows={1}
        value={text}
        placeholder={words.placeholder}
        aria-label={words.placeholder}
        onChange={(e) => setText(e.target.value)}
        onKeyDown={(event) => {
          // While an input method composes, Enter chooses characters.
          if (event.nativeEvent.isComposing || event.keyCode === 229) return;
          if (event.key === "Enter" && !event.shiftKey) {
            event.preventDefault();
            send();
          } else if (event.key === "ArrowUp" && text === "") {
            event.preventDefault();
            onEditLast();
          }
        }}
      />
      {busy ? (
        <button type="button" className="send stop" aria-label={words.stop} title={`${words.stop} (Esc)`} onClick={onStop}>
          <Square size={14} fill="currentColor" />
        </button>
      ) : (
        <button type="submit" className="send" aria-label={words.send} title={words.send} disabled={!ready}>
          <ArrowUp size={19} />
        </button>
      )}
    </form>
  );
}

/** A text field as tall as its text, up to what its style allows. */
export function useGrow(field: { current: HTMLTextAreaElement | null }, text: string): void {
  useLayoutEffect(() => {
    const box = field.current;
    if (!box) return;
    box.style.height = "auto";
    box.style.height = `${box.scrollHeight + 2}px`;
  }, [field, text]);
}
