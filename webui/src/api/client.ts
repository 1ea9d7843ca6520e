/** The server this page came from. All addresses are relative, so that a proxy may put the page anywhere. */

export type Trouble =
  | "unreachable"
  | "unauthorized"
  | "busy"
  | "full"
  | "stopping"
  | "context"
  | "model"
  | "timeout"
  | "refused"
  | "failed";

/** A request that did not succeed. `kind` is what the page explains; `message` is the server's own words. */
export class ApiError extends Error {
  constructor(
    readonly kind: Trouble,
    message: string,
    readonly status = 0,
    readonly retryAfter: number | null = null,
  ) {
    super(message);
    this.name = "ApiError";
  }
}

const KEY = "penstock.key";

export const apiKey = {
  get: (): string => sessionStorage.getItem(KEY) ?? "",
  set: (value: string): void => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

function headers(extra: Record<string, string> = {}): Record<string, string> {
  const key = apiKey.get();
  return key ? { ...extra, Authorization: `Bearer ${key}` } : extra;
}

export async function request(path: string, body?: unknown, signal?: AbortSignal): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(new URL(path, document.baseURI.replace(/#.*$/, "")), {
      method: body === undefined ? "GET" : "POST",
      headers: headers(body === undefined ? {} : { "Content-Type": "application/json" }),
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
      cache: "no-store",
      credentials: "same-origin",
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError("unreachable", error instanceof Error ? error.message : String(error));
  }
  if (!response.ok) throw await fromResponse(response);
  return response;
}

export async function getJson<T>(path: string, signal?: AbortSignal): Promise<T> {
  return (await (await request(path, undefined, signal)).json()) as T;
}

async function fromResponse(response: Response): Promise<ApiError> {
  let body: unknown = null;
  try {
    body = await response.json();
  } catch {
    // a proxy's page, or nothing: the status says enough
  }
  const after = Number(response.headers.get("Retry-After"));
  return toError(response.status, body, Number.isFinite(after) && after > 0 ? after : null);
}

/** An error body (or error event of a stream) as an `ApiError`. */
export function toError(status: number, body: unknown, retryAfter: number | null = null): ApiError {
  const inner = isRecord(body) && isRecord(body.error) ? body.error : {};
  const message = typeof inner.message === "string" ? inner.message : status ? `HTTP ${status}` : "the answer broke off";
  const code = typeof inner.code === "string" ? inner.code : "";
  return new ApiError(kindOf(status, code), message, status, retryAfter);
}

function kindOf(status: number, code: string): Trouble {
  if (code === "context_length_exceeded") return "context";
  if (code === "shutting_down") return "stopping";
  if (code === "model_not_found") return "model";
  if (status === 401) return "unauthorized";
  if (status === 429) return "busy";
  if (status === 503) return "full";
  if (status === 408 || status === 504) return "timeout";
  if (status === 502) return "unreachable";
  if (status >= 400 && status < 500) return "refused";
  return "failed";
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
