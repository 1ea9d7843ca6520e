import { describe, expect, it } from "vitest";
import { blocks, render } from "../src/markdown/render";

function html(text: string): string {
  const box = document.createElement("div");
  for (const block of blocks(text)) box.append(render(block));
  return box.innerHTML;
}

describe("Markdown", () => {
  it("draws what models write", () => {
    const found = html("# T\n\n**b** `c`\n\n- [x] done\n\n```python\nprint(1)\n```\n\n| a |\n|--:|\n| 1 |");
    expect(found).toContain("<h1>T</h1>");
    expect(found).toContain("<strong>b</strong> <code>c</code>");
    expect(found).toContain("☑");
    expect(found).toContain('<code class="language-python">print(1)');
    expect(found).toContain('align="right"');
  });

  it("keeps blocks that did not change", () => {
    const before = blocks("one\n\ntwo");
    const after = blocks("one\n\ntwo and more");
    expect(after[0]!.raw).toBe(before[0]!.raw);
    expect(after[1]!.raw).not.toBe(before[1]!.raw);
  });

  it("finds formulas, and leaves money alone", () => {
    expect(html("so $x^2$ and \\(y\\)").trim()).toBe('<p>so <span class="math">x^2</span> and <span class="math">y</span></p>');
    expect(html("$$\na < b\n$$")).toContain('<div class="math math-display">a &lt; b</div>');
    expect(html("\\[\nz\n\\]")).toContain("math-display");
    expect(html("from $5 to $10, or $ 3 $")).not.toContain("math");
    expect(html("`$x$`")).not.toContain("math");
  });

  const attacks = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "<iframe src='//evil.example'></iframe>",
    "<style>*{display:none}</style>",
    "<a href='javascript:alert(1)'>x</a>",
    "<details open ontoggle=alert(1)>",
    "<form action=//evil.example><input name=a></form>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD4=)",
    "[x](vbscript:x)",
    "[x](  javascript:alert(1))",
    "[x](#/engine)",
    "[x](/metrics)",
    "[x][y]\n\n[y]: javascript:alert(1)",
    "<javascript:alert(1)>",
    "![x](https://evil.example/?q=secret)",
    '![x" onerror="alert(1)](https://evil.example/a.png "t" )',
    "[![a](https://evil.example/a)](javascript:alert(1))",
    '```"><img src=x onerror=alert(1)>\ncode\n```',
    "$</span><img src=x onerror=alert(1)>$",
    '[a](https://e.example/"onmouseover="alert(1))',
    "&lt;img src=x onerror=alert(1)&gt;",
  ];
  it.each(attacks)("takes the sting out of %s", (attack) => {
    const box = document.createElement("div");
    for (const block of blocks(attack)) box.append(render(block));
    expect(box.querySelector("script,img,svg,iframe,style,form,input,details,object,embed,link,meta,math")).toBeNull();
    for (const element of box.querySelectorAll("*")) {
      for (const { name, value } of element.attributes) {
        expect(["href", "title", "target", "rel", "class", "align", "start"]).toContain(name);
        if (name === "href") expect(value).toMatch(/^https?:\/\/|^mailto:/);
      }
    }
    for (const link of box.querySelectorAll("a")) {
      expect(link.getAttribute("rel")).toContain("noopener");
      expect(link.getAttribute("target")).toBe("_blank");
    }
  });

  it("shows raw HTML as text", () => {
    expect(html("a <b>bold</b> <script>x</script>")).toContain("&lt;b&gt;bold&lt;/b&gt;");
  });
});
