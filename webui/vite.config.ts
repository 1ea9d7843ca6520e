/// <reference types="vitest/config" />
import react from "@vitejs/plugin-react";
import { defineConfig, type Plugin } from "vite";

/** Every browser that runs this page reads woff2: KaTeX's older formats would only make the wheel larger. */
function onlyWoff2(): Plugin {
  return {
    name: "only-woff2",
    enforce: "pre",
    transform(code, id) {
      if (!/katex.*\.css/.test(id)) return null;
      return code.replace(/,\s*url\([^)]+\.(?:woff|ttf)\)\s*format\(["'][a-z]+["']\)/g, "");
    },
  };
}

export default defineConfig({
  base: "./",
  plugins: [react(), onlyWoff2()],
  build: {
    outDir: "dist",
    assetsDir: "page",
    assetsInlineLimit: 0,
    // What the licences of the bundled libraries ask for.
    license: { fileName: "page/licenses.md" },
    modulePreload: { polyfill: false },
    reportCompressedSize: true,
    chunkSizeWarningLimit: 700,
  },
  server: {
    proxy: Object.fromEntries(
      ["/v1", "/page/info", "/page/stats", "/health", "/ready"].map((path) => [path, "http://127.0.0.1:8000"]),
    ),
  },
  test: { environment: "jsdom", include: ["tests/**/*.test.ts"] },
});
