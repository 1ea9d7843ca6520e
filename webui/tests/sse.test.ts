import { describe, expect, it } from "vitest";
import { EventReader } from "../src/api/sse";

const bytes = (text: string) => new TextEncoder().encode(text);

describe("EventReader", () => {
  it("gives whole events, however the bytes are cut", () => {
    const stream = bytes('data: {"a":"你好"}\n\ndata:two\r\n\r\n: note\n\nevent: x\ndata: 3\ndata: 4\n\ndata: cut');
    for (const size of [1, 2, 3, 7, 1000]) {
      const reader = new EventReader();
      const found: string[] = [];
      for (let i = 0; i < stream.length; i += size) found.push(...reader.feed(stream.slice(i, i + size)));
      expect(found).toEqual(['{"a":"你好"}', "two", "3\n4"]);
    }
  });
});
