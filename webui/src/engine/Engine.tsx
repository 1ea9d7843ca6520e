import { Menu as MenuIcon } from "lucide-react";
import { useState } from "react";
import { useNumber, useWords } from "../i18n";
import { useServer } from "../store/server";
import { BlockGrid } from "./BlockGrid";
import { Chart } from "./Chart";
import { quantile, type EngineNumbers, type ServerNumbers } from "./series";
import { recorderOf, useEngine } from "./useEngine";

const WINDOW = 120;

/** What the engine does now. */
export function Engine({ onMenu, dark }: { onMenu: (() => void) | undefined; dark: boolean }) {
  const words = useWords();
  const { numbers, failed, version } = useEngine();
  const [wanted, setWanted] = useState<string | null>(null);
  const models = numbers?.models ?? [];
  const model = models.find((m) => m.id === wanted) ?? models[0];
  const working = models.some((m) => m.running + m.waiting > 0);
  const state = failed ? "stalled" : working ? "working" : "idle";
  return (
    <main className="main">
      <header className="top">
        {onMenu ? (
          <button className="icon-button" aria-label={words.menu} onClick={onMenu}>
            <MenuIcon size={20} />
          </button>
        ) : null}
        <h1 className="top-title">{words.eng.title}</h1>
        <span className={`badge ${state}`} role="status">
          {words.eng[state]}
        </span>
        <span className="grow" />
        {models.length > 1 ? (
          <div className="tabs">
            {models.map((m) => (
              <button key={m.id} className={m.id === model?.id ? "on" : ""} onClick={() => setWanted(m.id)}>
                {m.id}
              </button>
            ))}
          </div>
        ) : null}
      </header>
      <div className="scroll">
        <div className="engine">
          {numbers?.trouble ? <p className="failure">{numbers.trouble}</p> : null}
          {numbers?.draining ? <p className="failure">{words.eng.draining}</p> : null}
          {numbers && model ? <Board numbers={numbers} model={model} version={version} dark={dark} /> : null}
        </div>
      </div>
    </main>
  );
}

interface BoardProps {
  numbers: ServerNumbers;
  model: EngineNumbers;
  version: number;
  dark: boolean;
}

function Board({ numbers, model, version, dark }: BoardProps) {
  const words = useWords();
  const number = useNumber();
  const { eng } = words;
  const { series } = recorderOf(model.id);
  const share = (model.blocks_used / Math.max(1, model.blocks_total)) * 100;
  const hits = model.prefix_queries ? (model.prefix_hits / model.prefix_queries) * 100 : null;
  const chart = { time: series.time, version, dark, window: WINDOW };
  return (
    <>
      <div className="tiles">
        <Tile name={eng.running} value={number(model.running)} text={eng.ofMost(number(model.max_running))} />
        <Tile name={eng.waiting} value={number(model.waiting)} text={eng.inQueue} warn={model.waiting > 0} />
        <Tile name={eng.speed} value={number(series.generation.at(-1) ?? 0)} text={eng.perSecond} />
        <Tile name={eng.prompt} value={number(series.prompt.at(-1) ?? 0)} text={eng.perSecond} />
        <Tile name={eng.cache} value={`${number(share, share < 10 ? 1 : 0)} %`} text={`${number(model.blocks_used)} / ${number(model.blocks_total)}`} warn={share > 90} />
        <Tile name={eng.hits} value={hits === null ? "–" : `${number(hits)} %`} text={eng.hitsText} />
      </div>
      <BlockGrid numbers={model} dark={dark} />
      <div className="charts">
        <Chart {...chart} title={eng.throughput} unit="" top={10} lines={[
          { name: eng.generation, colour: "--chart-1", values: series.generation },
          { name: eng.read, colour: "--chart-2", values: series.prompt },
        ]} />
        <Chart {...chart} title={eng.requests} unit="" top={4} lines={[
          { name: eng.isRunning, colour: "--chart-1", values: series.running },
          { name: eng.isWaiting, colour: "--chart-3", values: series.waiting },
        ]} />
        <Chart {...chart} title={eng.latency} unit=" ms" top={5} lines={[
          { name: eng.ttft, colour: "--chart-2", values: series.ttft },
          { name: eng.itl, colour: "--chart-1", values: series.itl },
        ]} />
        <Chart {...chart} title={eng.share} unit=" %" top={10} lines={[
          { name: eng.held, colour: "--chart-1", values: series.share },
        ]} />
      </div>
      <div className="charts">
        <Latencies model={model} />
        <Facts numbers={numbers} model={model} />
      </div>
    </>
  );
}

function Tile({ name, value, text, warn = false }: { name: string; value: string; text: string; warn?: boolean }) {
  return (
    <section className={warn ? "tile warn" : "tile"}>
      <h3>{name}</h3>
      <strong>{value}</strong>
      <span>{text}</span>
    </section>
  );
}

function Latencies({ model }: { model: EngineNumbers }) {
  const { eng } = useWords();
  const number = useNumber();
  const show = (name: string, share: number) => {
    const value = quantile(model.latency[name] ?? { bounds: [], counts: [], sum: 0 }, share);
    if (value === null) return "–";
    return value < 1 ? `${number(value * 1000, value < 0.01 ? 1 : 0)} ms` : `${number(value, 2)} s`;
  };
  return (
    <section className="card">
      <header>
        <h3>{eng.sinceStart}</h3>
      </header>
      <table className="numbers">
        <thead>
          <tr>
            <th>{eng.quantile}</th>
            <th>p50</th>
            <th>p90</th>
            <th>p99</th>
          </tr>
        </thead>
        <tbody>
          {Object.keys(eng.names).map((name) => (
            <tr key={name}>
              <td>{eng.names[name]}</td>
              <td>{show(name, 0.5)}</td>
              <td>{show(name, 0.9)}</td>
              <td>{show(name, 0.99)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}

function Facts({ numbers, model }: { numbers: ServerNumbers; model: EngineNumbers }) {
  const { eng } = useWords();
  const number = useNumber();
  const info = useServer((s) => s.info);
  const facts = info?.models.find((m) => m.id === model.id)?.facts ?? {};
  const finished = Object.values(model.finished).reduce((a, b) => a + b, 0);
  const counters: [string, number][] = [
    [eng.counters.prompt, model.prompt_tokens],
    [eng.counters.generated, model.generation_tokens],
    [eng.counters.finished, finished],
    [eng.counters.preemptions, model.preemptions],
    [eng.counters.disconnects, numbers.disconnects],
    [eng.counters.steps, model.steps],
  ];
  return (
    <section className="card">
      <header>
        <h3>{eng.facts}</h3>
        {info ? <span className="quiet small">penstock {info.version}</span> : null}
      </header>
      <dl className="facts">
        {counters.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{number(value)}</dd>
          </div>
        ))}
        {Object.entries(facts).map(([name, value]) => (
          <div key={name} className="wide">
            <dt>{eng.factNames[name] ?? name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
    </section>
  );
}
