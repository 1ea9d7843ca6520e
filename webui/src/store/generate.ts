import { streamChat, type ChatMessage, type Usage } from "../api/chat";
import { ApiError } from "../api/client";
import { useChats } from "./chats";
import { contextOf, useServer } from "./server";
import { lineage } from "./tree";
import type { Node, Stats } from "./types";

/** A longer pause between two paintings leaves the browser time for scrolling and typing. */
const FRAME = 40;
/** How often an unfinished answer is stored, in ms: a page that is closed loses no more. */
const KEEP = 2000;

/** Say `content` below `parent` (null: first), and have it answered. */
export function say(chat: string, parent: string | null, content: string): void {
  const node = useChats.getState().add(chat, { parent, role: "user", content });
  answer(chat, node.id);
}

/** Have `parent` answered, beside the answers that it may have. */
export function answer(chat: string, parent: string): void {
  const node = useChats.getState().add(chat, { parent, role: "assistant", content: "" });
  void write(chat, node);
}

/** Go on with an answer that ended for its length or was stopped. */
export function proceed(chat: string, node: Node): void {
  useChats.getState().change(chat, node.id, { failure: undefined, finish: undefined });
  void write(chat, node, true);
}

export function stop(chat: string): void {
  const { chats, running } = useChats.getState();
  for (const id of Object.keys(chats[chat]?.nodes ?? {})) running[id]?.abort();
}

async function write(chatId: string, node: Node, goOn = false): Promise<void> {
  const store = useChats.getState();
  const chat = store.chats[chatId]!;
  const { setup } = chat;
  const controller = new AbortController();
  store.started(node.id, controller);
  const models = useServer.getState().models;
  const model = models.some((m) => m.id === setup.model) ? setup.model : (models[0]?.id ?? setup.model);
  const work = new Work(chatId, node, goOn, contextOf(models, model));
  store.change(chatId, node.id, { model: model ?? undefined });
  try {
    const messages = conversation(chatId, goOn ? node.id : node.parent, setup.system);
    const stream = streamChat({ model, messages, params: setup.params, proceed: goOn }, controller.signal);
    for await (const delta of stream) work.take(delta);
    work.finish();
  } catch (error) {
    if (controller.signal.aborted) work.finish({ finish: "stopped" });
    else {
      const met = error instanceof ApiError ? error : new ApiError("failed", String(error));
      useServer.getState().met(met);
      work.finish({ failure: { kind: met.kind, message: met.message, retryAfter: met.retryAfter } });
    }
  } finally {
    useChats.getState().ended(node.id);
  }
}

function conversation(chatId: string, last: string | null, system: string): ChatMessage[] {
  const chat = useChats.getState().chats[chatId]!;
  const said = lineage(chat, last).map(({ role, content }) => ({ role, content }));
  return system.trim() ? [{ role: "system", content: system }, ...said] : said;
}

/** One answer as it comes in. The store is told every `FRAME` ms, storage every `KEEP` ms and at the end. */
class Work {
  private text: string;
  private reasoning: string;
  private began = performance.now();
  private first: number | null = null;
  private lastPiece = this.began;
  private pieces = 0;
  private usage: Usage | null = null;
  private reason: string | undefined;
  private kept = this.began;
  private timer: ReturnType<typeof setTimeout> | null = null;

  constructor(
    private chat: string,
    private node: Node,
    goOn: boolean,
    private context: number | null,
  ) {
    this.text = goOn ? node.content : "";
    this.reasoning = goOn ? (node.reasoning ?? "") : "";
  }

  take(delta: { text?: string; reasoning?: string; finish?: string; usage?: Usage }): void {
    if (delta.text || delta.reasoning) {
      this.lastPiece = performance.now();
      this.first ??= this.lastPiece;
      this.pieces += 1;
      this.text += delta.text ?? "";
      this.reasoning += delta.reasoning ?? "";
      this.timer ??= setTimeout(() => this.show(), FRAME);
    }
    if (delta.finish) this.reason = delta.finish;
    if (delta.usage) this.usage = delta.usage;
  }

  private show(): void {
    this.timer = null;
    const now = performance.now();
    const keep = now - this.kept > KEEP;
    if (keep) this.kept = now;
    useChats.getState().change(this.chat, this.node.id, this.content(), keep);
  }

  private content(): Partial<Node> {
    return { content: this.text, ...(this.reasoning ? { reasoning: this.reasoning } : {}) };
  }

  finish(change: Partial<Node> = {}): void {
    if (this.timer) clearTimeout(this.timer);
    useChats.getState().change(this.chat, this.node.id, {
      ...this.content(),
      finish: this.reason,
      ...(this.pieces ? { stats: this.stats() } : {}),
      ...change,
    });
  }

  private stats(): Stats {
    const { usage, first } = this;
    return {
      ttft: first === null ? null : first - this.began,
      duration: first === null ? 0 : this.lastPiece - first,
      prompt: usage?.prompt ?? null,
      completion: usage?.completion ?? this.pieces,
      cached: usage?.cached ?? null,
      exact: usage !== null,
      context: this.context,
    };
  }
}

/** Milliseconds below which tokens come several in one piece, and the time between pieces says nothing. */
const SHORTEST = 50;

/** Tokens a second after the first one; of a very short answer, since the question. Null when there is too little to tell. */
export function speed(stats: Stats): number | null {
  if (stats.completion < 2 || stats.ttft === null) return null;
  if (stats.duration >= SHORTEST) return ((stats.completion - 1) / stats.duration) * 1000;
  return (stats.completion / (stats.ttft + stats.duration)) * 1000;
}
