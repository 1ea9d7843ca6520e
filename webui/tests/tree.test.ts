import { describe, expect, it } from "vitest";
import { children, lineage, path, pruned, search, switched, titleOf, withNode } from "../src/store/tree";
import { EMPTY_SETUP, type Chat, type Node } from "../src/store/types";

let time = 0;
const node = (id: string, parent: string | null, content = id): Node => ({
  id, parent, role: "user", content, created: ++time,
});
const empty = (title = "t"): Chat => ({
  id: title, title, named: false, created: 0, updated: ++time, setup: EMPTY_SETUP, nodes: {}, chosen: {},
});
const build = (...nodes: Node[]) => nodes.reduce(withNode, empty());
const shown = (chat: Chat) => path(chat).map((n) => n.id).join("");

describe("a chat's tree", () => {
  const chat = build(node("a", null), node("b", "a"), node("c", "b"), node("B", "a"));

  it("shows the newest branch, and each that is chosen", () => {
    expect(shown(chat)).toBe("aB");
    const back = switched(chat, "B", -1);
    expect(shown(back)).toBe("abc");
    expect(shown(switched(back, "b", 1))).toBe("aB");
    expect(shown(switched(back, "b", -1))).toBe("abc");
  });

  it("knows siblings by age and what came before", () => {
    expect(children(chat, "a").map((n) => n.id)).toEqual(["b", "B"]);
    expect(lineage(chat, "c").map((n) => n.id)).toEqual(["a", "b", "c"]);
    expect(lineage(chat, null)).toEqual([]);
  });

  it("forgets a message with all that follows", () => {
    const less = pruned(switched(chat, "B", -1), "b");
    expect(Object.keys(less.nodes)).toEqual(["a", "B"]);
    expect(shown(less)).toBe("aB");
  });

  it("ends even when what was stored goes in circles", () => {
    const odd = build({ ...node("x", "y") }, { ...node("y", "x") });
    expect(path(odd)).toEqual([]);
    expect(lineage(odd, "x").length).toBeLessThanOrEqual(3);
  });
});

describe("finding chats", () => {
  it("wants every word, in titles or messages, in any case", () => {
    const one = withNode(empty("About Rivers"), node("m", null, "the Yangtze 长江"));
    const two = withNode(empty("other"), node("n", null, "rivers of ink"));
    const found = (query: string) => search([one, two], query).map((c) => c.title);
    expect(found("rivers")).toEqual(["other", "About Rivers"]);
    expect(found("RIVERS yangtze")).toEqual(["About Rivers"]);
    expect(found("长江")).toEqual(["About Rivers"]);
    expect(found("nothing")).toEqual([]);
    expect(found("  ")).toHaveLength(2);
  });

  it("titles keep whole characters", () => {
    expect(titleOf("  a\n b ")).toBe("a b");
    expect(Array.from(titleOf("😀".repeat(60)))).toHaveLength(48);
  });
});
