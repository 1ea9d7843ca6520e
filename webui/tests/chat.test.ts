import { afterEach, describe, expect, it, vi } from "vitest";
import { chatBody, streamChat, type Delta } from "../src/api/chat";
import { ApiError } from "../src/api/client";

const ask = { model: "m", messages: [{ role: "user" as const, content: "hi" }], params: {}, proceed: false };

describe("chatBody", () => {
  it("sends what is set and nothing else", () => {
    const body = chatBody({ ...ask, params: { max_tokens: 5, temperature: 0, stop: [], seed: undefined } });
    expect(body).toEqual({
      model: "m",
      messages: ask.messages,
      max_tokens: 5,
      temperature: 0,
      stream: true,
      stream_options: { include_usage: true },
    });
    expect(chatBody({ ...ask, model: null })).not.toHaveProperty("model");
    expect(chatBody({ ...ask, proceed: true })).toMatchObject({ continue_final_message: true, add_generation_prompt: false });
  });
});

describe("streamChat", () => {
  afterEach(() => vi.unstubAllGlobals());

  const answer = (body: string, init: ResponseInit = {}) =>
    vi.stubGlobal("fetch", () => Promise.resolve(new Response(body, init)));
  const all = async () => {
    const found: Delta[] = [];
    for await (const delta of streamChat(ask, new AbortController().signal)) found.push(delta);
    return found;
  };

  it("reads text, thoughts, the end and the usage", async () => {
    answer(
      'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n' +
        'data: {"choices":[{"delta":{"reasoning":"hm","reasoning_content":"hm"}}]}\n\n' +
        'data: {"choices":[{"delta":{"content":"yes"}}]}\n\n' +
        'data: {"choices":[{"delta":{},"finish_reason":"length"}]}\n\n' +
        'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":1}}}\n\n' +
        "data: [DONE]\n\n",
    );
    expect((await all()).filter((d) => Object.keys(d).length)).toEqual([
      { reasoning: "hm" },
      { text: "yes" },
      { finish: "length" },
      { usage: { prompt: 3, completion: 2, cached: 1 } },
    ]);
  });

  it.each([
    [400, { code: "context_length_exceeded", message: "too long" }, "context"],
    [401, { code: "invalid_api_key", message: "key" }, "unauthorized"],
    [404, { code: "model_not_found", message: "no" }, "model"],
    [429, { code: "too_many_requests", message: "slow" }, "busy"],
    [503, { code: "overloaded", message: "full" }, "full"],
    [503, { code: "shutting_down", message: "bye" }, "stopping"],
    [500, { code: "internal_error", message: "oh" }, "failed"],
    [422, { message: "bad" }, "refused"],
  ])("says what %i %o is", async (status, error, kind) => {
    answer(JSON.stringify({ error }), { status, headers: { "Retry-After": "7" } });
    const met = await all().catch((e: unknown) => e);
    expect(met).toBeInstanceOf(ApiError);
    expect(met).toMatchObject({ kind, message: error.message, status, retryAfter: 7 });
  });

  it("knows a stream that broke off, and an error inside one", async () => {
    answer('data: {"choices":[{"delta":{"content":"y"}}]}\n\n');
    await expect(all()).rejects.toMatchObject({ kind: "unreachable" });
    answer('data: {"error":{"message":"a step failed","code":"execution_error"}}\n\ndata: [DONE]\n\n');
    await expect(all()).rejects.toMatchObject({ kind: "failed", message: "a step failed" });
  });

  it("knows a server that is gone", async () => {
    vi.stubGlobal("fetch", () => Promise.reject(new TypeError("Failed to fetch")));
    await expect(all()).rejects.toMatchObject({ kind: "unreachable" });
  });
});
