import type { Params } from "../store/types";
import { isRecord, request, toError } from "./client";
import { EventReader } from "./sse";

export interface ChatMessage {
  role: "system" | "user" | "assistant";
  content: string;
}

export interface Usage {
  prompt: number;
  completion: number;
  cached: number;
}

export interface Delta {
  text?: string;
  reasoning?: string;
  finish?: string;
  usage?: Usage;
}

export interface ChatRequest {
  model: string | null;
  messages: ChatMessage[];
  params: Params;
  /** Go on with the last message, which is the assistant's, instead of answering it. */
  proceed: boolean;
}

/** The body of the request: what the user has set, and nothing else. */
export function chatBody({ model, messages, params, proceed }: ChatRequest): Record<string, unknown> {
  const given = Object.entries(params).filter(
    ([, value]) => value !== null && value !== undefined && !(Array.isArray(value) && value.length === 0),
  );
  return {
    ...(model ? { model } : {}),
    messages,
    ...Object.fromEntries(given),
    ...(proceed ? { continue_final_message: true, add_generation_prompt: false } : {}),
    stream: true,
    stream_options: { include_usage: true },
  };
}

export async function* streamChat(chat: ChatRequest, signal: AbortSignal): AsyncGenerator<Delta> {
  const response = await request("v1/chat/completions", chatBody(chat), signal);
  const reader = response.body!.getReader();
  const events = new EventReader();
  let ended = false;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      for (const data of events.feed(value)) {
        if (data === "[DONE]") ended = true;
        else yield* read(JSON.parse(data));
      }
    }
  } catch (error) {
    if (error instanceof TypeError && !signal.aborted) throw toError(502, { error: { message: error.message } });
    throw error;
  } finally {
    void reader.cancel().catch(() => undefined);
  }
  if (!ended) throw toError(502, null);
}

function* read(event: unknown): Generator<Delta> {
  if (!isRecord(event)) return;
  if (event.error !== undefined) {
    const code = isRecord(event.error) ? event.error.code : null;
    throw toError(code === "shutting_down" ? 503 : 500, event);
  }
  const choice = Array.isArray(event.choices) ? event.choices[0] : undefined;
  if (isRecord(choice)) {
    const delta = isRecord(choice.delta) ? choice.delta : {};
    const found: Delta = {};
    if (typeof delta.content === "string" && delta.content) found.text = delta.content;
    const thought = delta.reasoning ?? delta.reasoning_content;
    if (typeof thought === "string" && thought) found.reasoning = thought;
    if (typeof choice.finish_reason === "string") found.finish = choice.finish_reason;
    yield found;
  }
  if (isRecord(event.usage)) {
    const details = isRecord(event.usage.prompt_tokens_details) ? event.usage.prompt_tokens_details : {};
    yield {
      usage: {
        prompt: Number(event.usage.prompt_tokens) || 0,
        completion: Number(event.usage.completion_tokens) || 0,
        cached: Number(details.cached_tokens) || 0,
      },
    };
  }
}
