import { isRecord } from "../api/client";
import { newId as randomId } from "./id";
import { ROOT, type Chat, type Node, type Params, type Setup } from "./types";

export const FORMAT = "penstock-chats";
export const MAX_FILE = 64 * 1024 * 1024;
const MAX_TEXT = 4_000_000;
const MAX_NODES = 20_000;

export function exported(chats: Chat[]): string {
  return JSON.stringify({ format: FORMAT, version: 1, exported: new Date().toISOString(), chats }, null, 1);
}

/** What cannot be imported, and why. */
export class ImportError extends Error {}

/** The chats in a file, every field checked; a chat whose messages do not form trees is refused. */
export function imported(text: string, newId: () => string = randomId): Chat[] {
  let file: unknown;
  try {
    file = JSON.parse(text);
  } catch {
    throw new ImportError("not JSON");
  }
  if (!isRecord(file) || file.format !== FORMAT) throw new ImportError(`no "format": "${FORMAT}"`);
  if (file.version !== 1) throw new ImportError(`version ${String(file.version)}`);
  if (!Array.isArray(file.chats)) throw new ImportError("no chats");
  return file.chats.map((chat, i) => readChat(chat, `chats[${i}]`, newId));
}

function readChat(value: unknown, where: string, newId: () => string): Chat {
  if (!isRecord(value) || !isRecord(value.nodes)) throw new ImportError(`${where}: no messages`);
  const entries = Object.entries(value.nodes);
  if (entries.length > MAX_NODES) throw new ImportError(`${where}: more than ${MAX_NODES} messages`);
  const ids = new Map(entries.map(([id]) => [id, newId()]));
  const nodes: Record<string, Node> = {};
  for (const [id, node] of entries) {
    const read = readNode(node, `${where}.nodes.${id.slice(0, 40)}`, ids);
    nodes[ids.get(id)!] = { ...read, id: ids.get(id)! };
  }
  checkTree(nodes, where);
  const chosen: Record<string, string> = {};
  for (const [key, child] of Object.entries(isRecord(value.chosen) ? value.chosen : {})) {
    const [from, to] = [key === ROOT ? ROOT : ids.get(key), ids.get(String(child))];
    if (from !== undefined && to !== undefined) chosen[from] = to;
  }
  const created = time(value.created);
  return {
    id: newId(),
    title: string(value.title, `${where}.title`, 200),
    named: value.named === true,
    created,
    updated: time(value.updated) || created,
    setup: readSetup(value.setup, `${where}.setup`),
    nodes,
    chosen,
  };
}

function readNode(value: unknown, where: string, ids: Map<string, string>): Node {
  if (!isRecord(value)) throw new ImportError(`${where}: not a message`);
  const { role, parent } = value;
  if (role !== "user" && role !== "assistant") throw new ImportError(`${where}.role: user or assistant`);
  const above = parent === null ? null : ids.get(String(parent));
  if (above === undefined) throw new ImportError(`${where}.parent: no such message`);
  const node: Node = {
    id: "",
    parent: above,
    role,
    content: string(value.content, `${where}.content`, MAX_TEXT),
    created: time(value.created),
  };
  if (typeof value.reasoning === "string") node.reasoning = value.reasoning.slice(0, MAX_TEXT);
  if (typeof value.model === "string") node.model = value.model.slice(0, 200);
  if (typeof value.finish === "string") node.finish = value.finish.slice(0, 40);
  const stats = value.stats;
  if (isRecord(stats)) {
    node.stats = {
      ttft: number(stats.ttft),
      duration: number(stats.duration) ?? 0,
      prompt: number(stats.prompt),
      completion: number(stats.completion) ?? 0,
      cached: number(stats.cached),
      exact: stats.exact === true,
      context: number(stats.context),
    };
  }
  return node;
}

function readSetup(value: unknown, where: string): Setup {
  if (!isRecord(value)) return { model: null, system: "", params: {} };
  return {
    model: typeof value.model === "string" ? value.model.slice(0, 200) : null,
    system: typeof value.system === "string" ? string(value.system, `${where}.system`, MAX_TEXT) : "",
    params: readParams(value.params),
  };
}

const NUMBERS = [
  "max_tokens", "temperature", "top_p", "top_k", "min_p", "typical_p", "repetition_penalty",
  "presence_penalty", "frequency_penalty", "seed",
] as const;

/** Known parameters of the right type; the rest is left out. */
export function readParams(value: unknown): Params {
  const params: Params = {};
  if (!isRecord(value)) return params;
  for (const name of NUMBERS) {
    const found = number(value[name]);
    if (found !== null) params[name] = found;
  }
  if (Array.isArray(value.stop)) {
    params.stop = value.stop.filter((s): s is string => typeof s === "string" && s !== "").slice(0, 64);
  }
  return params;
}

function checkTree(nodes: Record<string, Node>, where: string): void {
  const good = new Set<string>();
  for (const start of Object.values(nodes)) {
    const seen = new Set<string>();
    for (let node: Node | undefined = start; node && !good.has(node.id); ) {
      if (seen.has(node.id)) throw new ImportError(`${where}: messages go round in a circle`);
      seen.add(node.id);
      node = node.parent === null ? undefined : nodes[node.parent];
    }
    for (const id of seen) good.add(id);
  }
}

const number = (value: unknown): number | null => (typeof value === "number" && Number.isFinite(value) ? value : null);
const time = (value: unknown): number => Math.max(0, number(value) ?? 0);

function string(value: unknown, where: string, most: number): string {
  if (typeof value !== "string") throw new ImportError(`${where}: not text`);
  if (value.length > most) throw new ImportError(`${where}: too long`);
  return value;
}
