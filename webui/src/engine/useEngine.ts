import { useEffect, useRef, useState } from "react";
import { ApiError, getJson } from "../api/client";
import { useServer } from "../store/server";
import { Recorder, type ServerNumbers } from "./series";

const POLL = 1000;

/** Polls live as long as the page, so that the charts have a past when one comes back to them. */
const recorders = new Map<string, Recorder>();

export function recorderOf(model: string): Recorder {
  let found = recorders.get(model);
  if (!found) recorders.set(model, (found = new Recorder()));
  return found;
}

/** The newest numbers, every second while the page is seen; `failed` while the server does not answer. */
export function useEngine(): { numbers: ServerNumbers | null; failed: boolean; version: number } {
  const [numbers, setNumbers] = useState<ServerNumbers | null>(null);
  const [failed, setFailed] = useState(false);
  const [version, setVersion] = useState(0);
  const busy = useRef(false);
  useEffect(() => {
    const stop = new AbortController();
    const poll = async () => {
      if (busy.current || document.hidden) return;
      busy.current = true;
      try {
        const found = await getJson<ServerNumbers>("page/stats", stop.signal);
        for (const model of found.models) recorderOf(model.id).add(Date.now() / 1000, model);
        setNumbers(found);
        setFailed(false);
        setVersion((v) => v + 1);
      } catch (error) {
        if (stop.signal.aborted) return;
        setFailed(true);
        if (error instanceof ApiError && error.kind === "unauthorized" && useServer.getState().status !== "unauthorized") {
          useServer.getState().met(error);
        }
      } finally {
        busy.current = false;
      }
    };
    void poll();
    const timer = setInterval(() => void poll(), POLL);
    return () => {
      busy.current = false;
      stop.abort();
      clearInterval(timer);
    };
  }, []);
  return { numbers, failed, version };
}
