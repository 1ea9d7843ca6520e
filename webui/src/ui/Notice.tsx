import { create } from "zustand";

interface NoticeState {
  text: string;
  bad: boolean;
}

const useNotice = create<NoticeState>(() => ({ text: "", bad: false }));
let timer: ReturnType<typeof setTimeout> | undefined;

/** A line at the foot of the page, for some seconds. */
export function notify(text: string, bad = false): void {
  clearTimeout(timer);
  useNotice.setState({ text, bad });
  timer = setTimeout(() => useNotice.setState({ text: "", bad: false }), bad ? 8000 : 3500);
}

export function Notice() {
  const { text, bad } = useNotice();
  return (
    <div className="notice-place" role="status" aria-live="polite">
      {text ? <div className={bad ? "notice bad" : "notice"}>{text}</div> : null}
    </div>
  );
}
