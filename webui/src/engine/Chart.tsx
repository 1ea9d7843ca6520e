import { useEffect, useRef } from "react";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";

export interface Line {
  name: string;
  /** The CSS variable that holds its colour. */
  colour: string;
  values: (number | null)[];
}

interface Props {
  title: string;
  time: number[];
  lines: Line[];
  unit: string;
  /** What the axis shows at least. */
  top: number;
  version: number;
  dark: boolean;
  /** Seconds of time that are shown. */
  window: number;
}

const HEIGHT = 168;

export function Chart({ title, time, lines, unit, top, version, dark, window: span }: Props) {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const names = lines.map((line) => line.name).join();
  const data = (): uPlot.AlignedData => [time, ...lines.map((line) => line.values)] as uPlot.AlignedData;

  useEffect(() => {
    const box = place.current!;
    const style = getComputedStyle(document.documentElement);
    const colour = (name: string) => style.getPropertyValue(name).trim();
    const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
    const options: uPlot.Options = {
      width: box.clientWidth,
      height: HEIGHT,
      legend: { show: false },
      cursor: { show: false },
      scales: {
        x: { time: true, range: (_, __, max) => [(max ?? 0) - span, max ?? 0] },
        y: { range: (_, __, max) => [0, Math.max(top, (max ?? 0) * 1.12)] },
      },
      axes: [
        { ...axis, values: (_, at) => at.map((t) => new Date(t * 1000).toLocaleTimeString([], { hour12: false })), space: 90, size: 26 },
        { ...axis, size: 48, values: (_, at) => at.map((v) => compact(v)) },
      ],
      series: [
        {},
        ...lines.map((line, i) => ({
          label: line.name,
          stroke: colour(line.colour),
          width: 2,
          fill: i === 0 ? `${colour(line.colour)}22` : undefined,
          points: { show: false },
          spanGaps: false,
        })),
      ],
    };
    plot.current = new uPlot(options, data(), box);
    const observer = new ResizeObserver(() => plot.current?.setSize({ width: box.clientWidth, height: HEIGHT }));
    observer.observe(box);
    return () => {
      observer.disconnect();
      plot.current?.destroy();
      plot.current = null;
    };
  }, [dark, names, span, top]);

  useEffect(() => plot.current?.setData(data()), [version]);

  return (
    <section className="card chart" aria-label={title}>
      <header>
        <h3>{title}</h3>
        <ul className="legend">
          {lines.map((line) => (
            <li key={line.name}>
              <Swatch colour={line.colour} />
              {line.name}
              <b>{lastOf(line.values, unit)}</b>
            </li>
          ))}
        </ul>
      </header>
      <div ref={place} className="plot" />
    </section>
  );
}

export function Swatch({ colour }: { colour: string }) {
  return <i className="swatch" style={{ background: `var(${colour})` }} />;
}

function lastOf(values: (number | null)[], unit: string): string {
  const value = values.at(-1);
  return value === null || value === undefined ? "–" : `${compact(value)}${unit}`;
}

export const compact = (value: number): string =>
  new Intl.NumberFormat("en", { notation: value >= 10_000 ? "compact" : "standard", maximumFractionDigits: value < 10 ? 1 : 0 }).format(value);
