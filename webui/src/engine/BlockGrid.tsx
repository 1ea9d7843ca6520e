import { useEffect, useRef } from "react";
import { useNumber, useWords } from "../i18n";
import { Swatch } from "./Chart";
import { cells, type EngineNumbers } from "./series";

const MOST_CELLS = 4096;
const COLOURS = ["--cell-free", "--cell-cached", "--cell-held", "--cell-shared"];

/** Every block of the KV cache as a cell, in the order of their ids. */
export function BlockGrid({ numbers, dark }: { numbers: EngineNumbers; dark: boolean }) {
  const words = useWords();
  const number = useNumber();
  const canvas = useRef<HTMLCanvasElement>(null);
  const { states, per } = cells(numbers, MOST_CELLS);

  useEffect(() => {
    const board = canvas.current!;
    const draw = () => paint(board, states);
    draw();
    const observer = new ResizeObserver(draw);
    observer.observe(board.parentElement!);
    return () => observer.disconnect();
  }, [numbers, dark]);

  const legend: [string, string, number][] = [
    ["--cell-held", words.eng.held, numbers.blocks_used],
    ["--cell-cached", words.eng.cached, numbers.blocks_cached],
    ["--cell-free", words.eng.free, numbers.blocks_total - numbers.blocks_used - numbers.blocks_cached],
  ];
  const shared = numbers.blocks ? [...numbers.blocks].filter((c) => c > "1").length : 0;
  if (shared) legend.splice(1, 0, ["--cell-shared", words.eng.shared, shared]);
  const text = legend.map(([, name, count]) => `${name} ${number(count)}`).join(", ");
  return (
    <section className="card grid-card">
      <header>
        <h3>{words.eng.blocks}</h3>
        <span className="quiet small">
          {words.eng.blocksText(number(numbers.blocks_total), number(numbers.block_size))}
          {per > 1 ? ` · ${words.eng.perCell(number(per))}` : ""}
        </span>
        <ul className="legend">
          {legend.map(([colour, name, count]) => (
            <li key={name}>
              <Swatch colour={colour} />
              {name}
              <b>{number(count)}</b>
            </li>
          ))}
        </ul>
      </header>
      <div className="board">
        <canvas ref={canvas} role="img" aria-label={text} data-blocks={text} />
      </div>
    </section>
  );
}

function paint(board: HTMLCanvasElement, states: Uint8Array): void {
  const width = board.parentElement!.clientWidth;
  if (width < 10) return;
  const area = Math.min(width * 190, states.length * 18 * 18);
  const pitch = Math.max(3, Math.min(18, Math.floor(Math.sqrt(area / states.length))));
  const columns = Math.max(1, Math.floor(width / pitch));
  const rows = Math.ceil(states.length / columns);
  const scale = window.devicePixelRatio || 1;
  board.width = columns * pitch * scale;
  board.height = rows * pitch * scale;
  board.style.width = `${columns * pitch}px`;
  board.style.height = `${rows * pitch}px`;
  const style = getComputedStyle(document.documentElement);
  const colours = COLOURS.map((name) => style.getPropertyValue(name).trim());
  const pen = board.getContext("2d")!;
  pen.scale(scale, scale);
  const gap = pitch > 5 ? 1.5 : 1;
  states.forEach((state, i) => {
    pen.fillStyle = colours[state]!;
    pen.fillRect((i % columns) * pitch, Math.floor(i / columns) * pitch, pitch - gap, pitch - gap);
  });
}
