import { create } from "zustand";
import { ApiError, apiKey } from "../api/client";
import { listModels, serverInfo, type ModelCard, type ServerInfo } from "../api/models";

export type Status = "connecting" | "ready" | "unauthorized" | "unreachable";

interface ServerState {
  status: Status;
  models: ModelCard[];
  info: ServerInfo | null;
  askKey: boolean;
  refresh: () => Promise<void>;
  giveKey: (key: string) => Promise<void>;
  met: (error: ApiError) => void;
  closeKey: () => void;
}

export const useServer = create<ServerState>((set, get) => ({
  status: "connecting",
  models: [],
  info: null,
  askKey: false,
  refresh: async () => {
    try {
      const [models, info] = await Promise.all([listModels(), serverInfo().catch(() => get().info)]);
      set({ models, info, status: "ready", askKey: false });
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      get().met(error);
      if (get().status === "connecting") set({ status: "unreachable" });
    }
  },
  giveKey: async (key) => {
    apiKey.set(key.trim());
    await get().refresh();
  },
  met: (error) => {
    if (error.kind === "unauthorized") set({ status: "unauthorized", askKey: true });
    else if (error.kind === "unreachable") set({ status: "unreachable" });
  },
  closeKey: () => set({ askKey: false }),
}));

/** The context of a model or of the model below an adapter, in tokens. */
export function contextOf(models: ModelCard[], id: string | null): number | null {
  const card = models.find((m) => m.id === id) ?? models[0];
  return card?.maxLength ?? null;
}
