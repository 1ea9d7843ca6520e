/** Sampling parameters by their names in the API; what is absent is the server's choice. */
export interface Params {
  max_tokens?: number;
  temperature?: number;
  top_p?: number;
  top_k?: number;
  min_p?: number;
  typical_p?: number;
  repetition_penalty?: number;
  presence_penalty?: number;
  frequency_penalty?: number;
  seed?: number;
  stop?: string[];
}

/** What a chat is held with. `model` null: the server's first. */
export interface Setup {
  model: string | null;
  system: string;
  params: Params;
}

/** Times in milliseconds by this browser's clock; tokens by the server's count (`exact`), else by pieces seen. */
export interface Stats {
  ttft: number | null;
  duration: number;
  prompt: number | null;
  completion: number;
  cached: number | null;
  exact: boolean;
  context: number | null;
}

export interface Failure {
  kind: string;
  message: string;
  retryAfter: number | null;
}

export interface Node {
  id: string;
  parent: string | null;
  role: "user" | "assistant";
  content: string;
  reasoning?: string;
  created: number;
  model?: string;
  finish?: string;
  stats?: Stats;
  failure?: Failure;
}

/** A conversation is a tree: editing and regenerating add siblings. `chosen` says which child is followed. */
export interface Chat {
  id: string;
  title: string;
  named: boolean;
  created: number;
  updated: number;
  setup: Setup;
  nodes: Record<string, Node>;
  /** Of each node, or of the root (""), the child that is shown. */
  chosen: Record<string, string>;
}

export const ROOT = "";
export const EMPTY_SETUP: Setup = { model: null, system: "", params: {} };
