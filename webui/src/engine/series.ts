/** Numbers of the engine over time: differences of counters become rates, differences of histograms quantiles. */

export interface Histogram {
  bounds: number[];
  counts: number[];
  sum: number;
}

export interface EngineNumbers {
  id: string;
  running: number;
  waiting: number;
  max_running: number;
  block_size: number;
  blocks_used: number;
  blocks_cached: number;
  blocks_total: number;
  blocks: string | null;
  prompt_tokens: number;
  generation_tokens: number;
  prefix_queries: number;
  prefix_hits: number;
  preemptions: number;
  steps: number;
  seconds_since_step: number;
  finished: Record<string, number>;
  latency: Record<string, Histogram>;
}

export interface ServerNumbers {
  draining: boolean;
  trouble: string | null;
  disconnects: number;
  models: EngineNumbers[];
}

/** What the charts draw: one value of each line per poll. `null`: nothing to tell. */
export interface Series {
  time: number[];
  generation: (number | null)[];
  prompt: (number | null)[];
  running: (number | null)[];
  waiting: (number | null)[];
  share: (number | null)[];
  ttft: (number | null)[];
  itl: (number | null)[];
}

export const LINES = ["generation", "prompt", "running", "waiting", "share", "ttft", "itl"] as const;
export const emptySeries = (): Series => ({
  time: [], generation: [], prompt: [], running: [], waiting: [], share: [], ttft: [], itl: [],
});

/** The value below which `share` of the counted ones lie, interpolated within its bucket; null without any. */
export function quantile(histogram: Histogram, share: number): number | null {
  const { bounds, counts } = histogram;
  const total = counts.reduce((a, b) => a + b, 0);
  if (total <= 0) return null;
  let before = 0;
  for (let i = 0; i < counts.length; i++) {
    const here = counts[i]!;
    if (here > 0 && before + here >= share * total) {
      const low = i === 0 ? 0 : bounds[i - 1]!;
      const high = bounds[i] ?? low;
      return low + (high - low) * Math.max(0, Math.min(1, (share * total - before) / here));
    }
    before += here;
  }
  return bounds.at(-1) ?? null;
}

export function difference(now: Histogram, before: Histogram | undefined): Histogram {
  if (!before || before.counts.length !== now.counts.length) return now;
  return { bounds: now.bounds, counts: now.counts.map((c, i) => Math.max(0, c - before.counts[i]!)), sum: now.sum - before.sum };
}

interface Sample {
  time: number;
  numbers: EngineNumbers;
}

const LATENCY_WINDOW = 10;

/** Collects polls of one model; `limit` of them are kept. */
export class Recorder {
  private samples: Sample[] = [];
  readonly series = emptySeries();

  constructor(private limit = 300) {}

  /** `time` in seconds. A counter that went back means that the server was started anew: begin again. */
  add(time: number, numbers: EngineNumbers): void {
    const before = this.samples.at(-1);
    if (before && numbers.steps < before.numbers.steps) this.clear();
    const last = this.samples.at(-1);
    const old = this.samples.find((s) => s.time >= time - LATENCY_WINDOW);
    this.samples = [...this.samples.filter((s) => s.time >= time - LATENCY_WINDOW), { time, numbers }];
    const rate = (name: "generation_tokens" | "prompt_tokens") =>
      last && time > last.time ? (numbers[name] - last.numbers[name]) / (time - last.time) : null;
    const recent = (name: string, share: number) => {
      const now = numbers.latency[name];
      if (!now || !old) return null;
      const value = quantile(difference(now, old.numbers.latency[name]), share);
      return value === null ? null : value * 1000;
    };
    const values: Record<(typeof LINES)[number], number | null> = {
      generation: rate("generation_tokens"),
      prompt: rate("prompt_tokens"),
      running: numbers.running,
      waiting: numbers.waiting,
      share: (numbers.blocks_used / Math.max(1, numbers.blocks_total)) * 100,
      ttft: recent("ttft", 0.5),
      itl: recent("itl", 0.5),
    };
    this.series.time.push(time);
    for (const line of LINES) this.series[line].push(values[line]);
    if (this.series.time.length > this.limit) {
      this.series.time.shift();
      for (const line of LINES) this.series[line].shift();
    }
  }

  private clear(): void {
    this.samples = [];
    this.series.time.length = 0;
    for (const line of LINES) this.series[line].length = 0;
  }
}

/** Cells of the picture of blocks: 0 free, 1 kept for reuse, 2 held, 3 shared. `per`: blocks in a cell. */
export function cells(numbers: EngineNumbers, most: number): { states: Uint8Array; per: number } {
  const { blocks_total: total, blocks_used: used, blocks_cached: cached, blocks } = numbers;
  const per = Math.max(1, Math.ceil(total / most));
  const states = new Uint8Array(Math.ceil(total / per));
  let toCache = cached;
  for (let cell = 0; cell < states.length; cell++) {
    let held = 0;
    let shared = false;
    const size = Math.min(per, total - cell * per);
    if (blocks === null) held = Math.max(0, Math.min(size, used - cell * per));
    else {
      for (let i = cell * per; i < cell * per + size && i < blocks.length; i++) {
        if (blocks[i] !== "0") held += 1;
        if (blocks[i]! > "1") shared = true;
      }
    }
    const free = size - held;
    const kept = Math.min(free, toCache);
    toCache -= kept;
    states[cell] = shared ? 3 : held > 0 ? 2 : kept > 0 ? 1 : 0;
  }
  return { states, per };
}
