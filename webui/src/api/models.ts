import { getJson, isRecord } from "./client";
import type { Params } from "../store/types";

/** A model, or an adapter (`parent`: the model below it), that requests may name. */
export interface ModelCard {
  id: string;
  parent: string | null;
  maxLength: number | null;
}

export interface ModelInfo {
  id: string;
  max_model_len: number;
  defaults: Partial<Record<keyof Params, unknown>>;
  facts: Record<string, string>;
}

export interface ServerInfo {
  version: string;
  models: ModelInfo[];
}

export async function listModels(): Promise<ModelCard[]> {
  const found = await getJson<{ data?: unknown }>("v1/models");
  if (!Array.isArray(found.data)) return [];
  return found.data.filter(isRecord).map((card) => ({
    id: String(card.id),
    parent: typeof card.parent === "string" ? card.parent : null,
    maxLength: typeof card.max_model_len === "number" ? card.max_model_len : null,
  }));
}

export const serverInfo = (): Promise<ServerInfo> => getJson<ServerInfo>("page/info");
