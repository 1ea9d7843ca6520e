import { describe, expect, it } from "vitest";
import { exported, imported, ImportError, readParams } from "../src/store/transfer";
import { path } from "../src/store/tree";
import type { Chat } from "../src/store/types";

const chat: Chat = {
  id: "one", title: "你好", named: true, created: 1, updated: 9,
  setup: { model: "m", system: "be brief", params: { temperature: 0.5, stop: ["x"] } },
  nodes: {
    q: { id: "q", parent: null, role: "user", content: "hi", created: 1 },
    a: { id: "a", parent: "q", role: "assistant", content: "ho", created: 2, finish: "stop" },
    b: { id: "b", parent: "q", role: "assistant", content: "hm", created: 3 },
  },
  chosen: { "": "q", q: "a" },
};
const file = (change: Record<string, unknown>) =>
  JSON.stringify({ format: "penstock-chats", version: 1, chats: [{ ...chat, ...change }] });

describe("export and import", () => {
  it("gives back the same chat under new names", () => {
    const [back] = imported(exported([chat]));
    expect(back).toMatchObject({ title: "你好", named: true, created: 1, updated: 9, setup: chat.setup });
    expect(back!.id).not.toBe("one");
    expect(path(back!).map((n) => n.content)).toEqual(["hi", "ho"]);
    expect(Object.keys(back!.nodes)).toHaveLength(3);
    expect(Object.keys(back!.nodes)).not.toContain("q");
  });

  it.each([
    ["no JSON", "{"],
    ["another format", '{"format":"x"}'],
    ["another version", '{"format":"penstock-chats","version":2,"chats":[]}'],
    ["no list", '{"format":"penstock-chats","version":1}'],
    ["no messages", file({ nodes: 3 })],
    ["a title of numbers", file({ title: 3 })],
    ["a strange role", file({ nodes: { q: { ...chat.nodes.q, role: "system" } } })],
    ["an unknown parent", file({ nodes: { q: { ...chat.nodes.q, parent: "zz" } } })],
    ["a circle", file({ nodes: { q: { ...chat.nodes.q, parent: "a" }, a: chat.nodes.a } })],
    ["content that is no text", file({ nodes: { q: { ...chat.nodes.q, content: {} } } })],
  ])("refuses %s", (_, text) => {
    expect(() => imported(text)).toThrow(ImportError);
  });

  it("takes no names that reach into objects", () => {
    const [back] = imported(
      '{"format":"penstock-chats","version":1,"chats":[{"title":"t","chosen":{"__proto__":"q"},' +
        '"nodes":{"__proto__":{"parent":null,"role":"user","content":"x"}}}]}',
    );
    expect(({} as Record<string, unknown>).content).toBeUndefined();
    expect(path(back!)).toHaveLength(1);
  });

  it("keeps only parameters of the right type", () => {
    expect(readParams({ temperature: "1", top_p: 0.5, seed: Infinity, evil: 1, stop: ["a", 3, ""] })).toEqual({
      top_p: 0.5,
      stop: ["a"],
    });
  });
});
