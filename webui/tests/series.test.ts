import { describe, expect, it } from "vitest";
import { cells, quantile, Recorder, type EngineNumbers } from "../src/engine/series";

const numbers = (change: Partial<EngineNumbers> = {}): EngineNumbers => ({
  id: "m", running: 0, waiting: 0, max_running: 8, block_size: 16, blocks_used: 0, blocks_cached: 0, blocks_total: 10,
  blocks: "", prompt_tokens: 0, generation_tokens: 0, prefix_queries: 0, prefix_hits: 0, preemptions: 0, steps: 0,
  seconds_since_step: 0, finished: {}, latency: {}, ...change,
});

describe("quantile", () => {
  it("lies within the bucket that holds it", () => {
    const histogram = { bounds: [1, 2, 4], counts: [0, 10, 0, 0], sum: 15 };
    expect(quantile(histogram, 0.5)).toBe(1.5);
    expect(quantile({ ...histogram, counts: [1, 0, 1, 0] }, 0.99)).toBeCloseTo(3.96);
    expect(quantile({ ...histogram, counts: [0, 0, 0, 3] }, 0.5)).toBe(4);
    expect(quantile({ ...histogram, counts: [0, 0, 0, 0] }, 0.5)).toBeNull();
  });
});

describe("Recorder", () => {
  const latency = (a: number, b: number) => ({ itl: { bounds: [0.01, 0.02], counts: [a, b, 0], sum: 1 } });

  it("makes rates of counters and latencies of what is new", () => {
    const recorder = new Recorder();
    recorder.add(0, numbers({ latency: latency(100, 0) }));
    recorder.add(2, numbers({ steps: 5, generation_tokens: 50, running: 3, blocks_used: 5, latency: latency(100, 10) }));
    const { series } = recorder;
    expect(series.generation).toEqual([null, 25]);
    expect(series.running).toEqual([0, 3]);
    expect(series.share).toEqual([0, 50]);
    expect(series.itl[1]).toBeCloseTo(15);
  });

  it("begins again when the server did, and keeps no more than asked", () => {
    const recorder = new Recorder(3);
    for (let i = 0; i < 6; i++) recorder.add(i, numbers({ steps: i }));
    expect(recorder.series.time).toEqual([3, 4, 5]);
    recorder.add(6, numbers({ steps: 0 }));
    expect(recorder.series.time).toEqual([6]);
    expect(recorder.series.generation).toEqual([null]);
  });
});

describe("cells", () => {
  it("draws each block", () => {
    const { states, per } = cells(numbers({ blocks: "0120", blocks_used: 2, blocks_cached: 2 }), 100);
    expect([...states]).toEqual([1, 2, 3, 1, 0, 0, 0, 0, 0, 0]);
    expect(per).toBe(1);
  });

  it("draws from counts when there are too many", () => {
    const { states, per } = cells(numbers({ blocks: null, blocks_total: 100, blocks_used: 30, blocks_cached: 20 }), 10);
    expect(per).toBe(10);
    expect([...states]).toEqual([2, 2, 2, 1, 1, 0, 0, 0, 0, 0]);
  });
});
