import { KeyRound, RotateCw, TriangleAlert } from "lucide-react";
import { useEffect, useState } from "react";
import { useWords } from "../i18n";
import { useServer } from "../store/server";
import type { Failure } from "../store/types";

/** What went wrong, what to do about it, in the reader's language and the server's words. */
export function FailureCard({ failure, onRetry }: { failure: Failure; onRetry: () => void }) {
  const words = useWords();
  const [title, advice] = words.troubles[failure.kind] ?? words.troubles.failed!;
  const left = useCountdown(failure.retryAfter);
  return (
    <div className="failure" role="alert" data-kind={failure.kind}>
      <TriangleAlert size={18} aria-hidden />
      <div>
        <strong>{title}</strong>
        {advice ? <p>{advice}</p> : null}
        {failure.message && failure.kind !== "unreachable" ? <p className="quiet small">{failure.message}</p> : null}
        <div className="failure-buttons">
          {failure.kind === "unauthorized" ? (
            <button className="button" onClick={() => useServer.setState({ askKey: true })}>
              <KeyRound size={15} /> {words.keyField}
            </button>
          ) : null}
          <button className="button" onClick={onRetry} disabled={left > 0}>
            <RotateCw size={15} /> {left > 0 ? words.retryIn(left) : words.retry}
          </button>
        </div>
      </div>
    </div>
  );
}

function useCountdown(seconds: number | null): number {
  const [left, setLeft] = useState(Math.min(60, Math.ceil(seconds ?? 0)));
  useEffect(() => {
    if (left <= 0) return;
    const timer = setTimeout(() => setLeft(left - 1), 1000);
    return () => clearTimeout(timer);
  }, [left]);
  return left;
}
