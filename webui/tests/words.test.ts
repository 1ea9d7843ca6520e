import { expect, it } from "vitest";
import { en } from "../src/words/en";
import { zh } from "../src/words/zh";

/** Every place of a tree of words, with whether it is text or a function. */
function shape(words: unknown, at = ""): string[] {
  if (typeof words !== "object" || words === null) return [`${at}:${typeof words}`];
  return Object.entries(words).flatMap(([key, value]) => shape(value, `${at}.${key}`));
}

it("both languages say everything", () => {
  const optional = /\.factNames\./;
  expect(shape(zh).filter((s) => !optional.test(s))).toEqual(shape(en).filter((s) => !optional.test(s)));
  expect(en.greeting).toBe("How can I help you?");
  expect(zh.greeting).toBe("有什么可以帮您的？");
});
