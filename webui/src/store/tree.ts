import { ROOT, type Chat, type Node } from "./types";

/** Children of a node (null: the first messages), oldest first. */
export function children(chat: Chat, parent: string | null): Node[] {
  return Object.values(chat.nodes)
    .filter((node) => node.parent === parent)
    .sort((a, b) => a.created - b.created || (a.id < b.id ? -1 : 1));
}

/** The messages that are shown: from the root, always the chosen child, else the newest. */
export function path(chat: Chat): Node[] {
  const byParent = new Map<string, Node[]>();
  for (const node of Object.values(chat.nodes)) {
    const key = node.parent ?? ROOT;
    byParent.set(key, [...(byParent.get(key) ?? []), node]);
  }
  const found: Node[] = [];
  let at = ROOT;
  for (;;) {
    const options = byParent.get(at);
    if (!options || found.length > byParent.size) return found;
    const wanted = chat.chosen[at];
    const next =
      options.find((node) => node.id === wanted) ?? options.reduce((a, b) => (b.created >= a.created ? b : a));
    found.push(next);
    at = next.id;
  }
}

/** The messages above and including `id`. */
export function lineage(chat: Chat, id: string | null): Node[] {
  const found: Node[] = [];
  let node = id === null ? undefined : chat.nodes[id];
  while (node && found.length <= Object.keys(chat.nodes).length) {
    found.unshift(node);
    node = node.parent === null ? undefined : chat.nodes[node.parent];
  }
  return found;
}

/** A chat with one more message, which is shown. */
export function withNode(chat: Chat, node: Node): Chat {
  return {
    ...chat,
    updated: Math.max(chat.updated, node.created),
    nodes: { ...chat.nodes, [node.id]: node },
    chosen: { ...chat.chosen, [node.parent ?? ROOT]: node.id },
  };
}

export function withChange(chat: Chat, id: string, change: Partial<Node>): Chat {
  const node = chat.nodes[id];
  return node ? { ...chat, nodes: { ...chat.nodes, [id]: { ...node, ...change } } } : chat;
}

/** A chat in which the sibling `step` places from `id` is shown. */
export function switched(chat: Chat, id: string, step: number): Chat {
  const node = chat.nodes[id];
  if (!node) return chat;
  const siblings = children(chat, node.parent);
  const next = siblings[siblings.findIndex((s) => s.id === id) + step];
  return next ? { ...chat, chosen: { ...chat.chosen, [node.parent ?? ROOT]: next.id } } : chat;
}

/** A chat without `id` and all that follows it. */
export function pruned(chat: Chat, id: string): Chat {
  const gone = new Set([id]);
  for (let grew = true; grew; ) {
    grew = false;
    for (const node of Object.values(chat.nodes)) {
      if (node.parent !== null && gone.has(node.parent) && !gone.has(node.id)) {
        gone.add(node.id);
        grew = true;
      }
    }
  }
  const keep = <T>(entries: [string, T][], of: (entry: [string, T]) => boolean) => Object.fromEntries(entries.filter(of));
  return {
    ...chat,
    nodes: keep(Object.entries(chat.nodes), ([key]) => !gone.has(key)),
    chosen: keep(Object.entries(chat.chosen), ([key, value]) => !gone.has(key) && !gone.has(value)),
  };
}

/** A title from the first words that were said. */
export function titleOf(text: string): string {
  const line = text.trim().replace(/\s+/g, " ");
  const letters = Array.from(line);
  return letters.length > 48 ? `${letters.slice(0, 47).join("")}…` : line;
}

/** Chats that hold every word of `query` in their title or in a message, newest first. */
export function search(chats: Chat[], query: string): Chat[] {
  const words = query.toLocaleLowerCase().split(/\s+/).filter(Boolean);
  const hit = (chat: Chat) => {
    const texts = [chat.title, ...Object.values(chat.nodes).map((n) => n.content)].join("\n").toLocaleLowerCase();
    return words.every((word) => texts.includes(word));
  };
  return chats.filter((chat) => words.length === 0 || hit(chat)).sort((a, b) => b.updated - a.updated);
}
