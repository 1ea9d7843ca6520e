import { Slider } from "@base-ui/react/slider";
import { RotateCcw, X } from "lucide-react";
import { useEffect, useState } from "react";
import { useNumber, useWords } from "../i18n";
import { contextOf, useServer } from "../store/server";
import type { Params, Setup } from "../store/types";

interface Range {
  name: Exclude<keyof Params, "stop" | "seed">;
  low: number;
  high: number;
  step: number;
  /** Where the slider stands when neither the user nor the server says. */
  neutral: number;
}

const RANGES: Range[] = [
  { name: "temperature", low: 0, high: 2, step: 0.05, neutral: 1 },
  { name: "top_p", low: 0.01, high: 1, step: 0.01, neutral: 1 },
  { name: "top_k", low: 0, high: 200, step: 1, neutral: 0 },
  { name: "min_p", low: 0, high: 1, step: 0.01, neutral: 0 },
  { name: "typical_p", low: 0.01, high: 1, step: 0.01, neutral: 1 },
  { name: "repetition_penalty", low: 0.5, high: 2, step: 0.01, neutral: 1 },
  { name: "presence_penalty", low: -2, high: 2, step: 0.1, neutral: 0 },
  { name: "frequency_penalty", low: -2, high: 2, step: 0.1, neutral: 0 },
];

interface Props {
  setup: Setup;
  onChange: (setup: Setup) => void;
  onClose: () => void;
}

/** The system prompt and every sampling parameter. What is not set is not sent. */
export function Panel({ setup, onChange, onClose }: Props) {
  const words = useWords();
  const { models, info } = useServer();
  const chosen = models.find((m) => m.id === setup.model) ?? models[0];
  const facts = info?.models.find((m) => m.id === chosen?.id || m.id === chosen?.parent);
  const context = contextOf(models, setup.model) ?? 4096;
  const { params } = setup;
  const put = (change: Partial<Params>) => {
    const next = { ...params, ...change };
    for (const key of Object.keys(next) as (keyof Params)[]) if (next[key] === undefined) delete next[key];
    onChange({ ...setup, params: next });
  };
  const usual = (name: keyof Params): number | null => {
    const value = facts?.defaults[name];
    return typeof value === "number" ? value : null;
  };
  return (
    <div className="panel-body">
      <div className="panel-head">
        <h2>{words.parameters}</h2>
        <button className="button slim" disabled={Object.keys(params).length === 0} onClick={() => onChange({ ...setup, params: {} })}>
          {words.resetAll}
        </button>
        <button className="icon-button" aria-label={words.hideParameters} onClick={onClose}>
          <X size={18} />
        </button>
      </div>
      <label className="param">
        <span className="param-name">{words.system}</span>
        <textarea
          className="field"
          rows={4}
          value={setup.system}
          placeholder={words.systemHint}
          onChange={(e) => onChange({ ...setup, system: e.target.value })}
        />
      </label>
      <Length value={params.max_tokens} context={context} onChange={(max_tokens) => put({ max_tokens })} />
      {RANGES.map((range) => (
        <Scale
          key={range.name}
          range={range}
          value={params[range.name]}
          usual={usual(range.name)}
          onChange={(value) => put({ [range.name]: value })}
        />
      ))}
      <Param name="seed" set={params.seed !== undefined} onReset={() => put({ seed: undefined })}>
        <NumberField
          name={words.params.seed![0]}
          value={params.seed}
          placeholder={String(usual("seed") ?? words.random)}
          low={0}
          high={Number.MAX_SAFE_INTEGER}
          whole
          onChange={(seed) => put({ seed })}
        />
      </Param>
      <Stops value={params.stop} onChange={(stop) => put({ stop })} />
    </div>
  );
}

interface ParamProps {
  name: string;
  set: boolean;
  onReset: () => void;
  children: React.ReactNode;
  below?: React.ReactNode;
}

function Param({ name, set, onReset, children, below }: ParamProps) {
  const words = useWords();
  const [title, hint] = words.params[name]!;
  return (
    <div className={set ? "param set" : "param"} data-param={name}>
      <div className="param-line">
        <span className="param-name">{title}</span>
        {set ? (
          <button className="icon-button small-icon" aria-label={`${words.reset}: ${title}`} title={words.reset} onClick={onReset}>
            <RotateCcw size={13} />
          </button>
        ) : null}
        {children}
      </div>
      {below}
      <p className="hint">{hint}</p>
    </div>
  );
}

interface ScaleProps {
  range: Range;
  value: number | undefined;
  usual: number | null;
  onChange: (value: number | undefined) => void;
}

function Scale({ range, value, usual, onChange }: ScaleProps) {
  const words = useWords();
  const title = words.params[range.name]![0];
  const { low, high, step } = range;
  const at = value ?? usual ?? range.neutral;
  return (
    <Param
      name={range.name}
      set={value !== undefined}
      onReset={() => onChange(undefined)}
      below={<Bar name={title} low={low} high={high} step={step} value={Math.min(high, Math.max(low, at))} onChange={onChange} />}
    >
      <NumberField
        name={title}
        value={value}
        placeholder={usual === null ? words.byServer : String(usual)}
        low={range.name === "top_p" ? 0.0001 : low}
        high={range.name === "top_k" ? 1_000_000 : high}
        whole={Number.isInteger(step)}
        onChange={onChange}
      />
    </Param>
  );
}

interface LengthProps {
  value: number | undefined;
  context: number;
  onChange: (value: number | undefined) => void;
}

/** Over a long context the slider is logarithmic: the difference between 50 and 100 matters, 50,000 more does not. */
function Length({ value, context, onChange }: LengthProps) {
  const words = useWords();
  const number = useNumber();
  const title = words.params.max_tokens![0];
  const long = context > 2048;
  const steps = long ? 1000 : context;
  const toTokens = (at: number) => (long ? Math.max(1, Math.round(context ** (at / steps))) : at);
  const toStep = (tokens: number) => (long ? Math.round((Math.log(tokens) / Math.log(context)) * steps) : tokens);
  return (
    <Param
      name="max_tokens"
      set={value !== undefined}
      onReset={() => onChange(undefined)}
      below={
        <Bar
          name={title}
          low={long ? 0 : 1}
          high={steps}
          step={1}
          value={toStep(Math.min(context, value ?? context))}
          onChange={(at) => onChange(toTokens(at))}
          say={(at) => words.tokens(number(toTokens(at)))}
        />
      }
    >
      <NumberField name={title} value={value} placeholder={words.wholeContext} low={1} high={context} whole onChange={onChange} />
    </Param>
  );
}

interface BarProps {
  name: string;
  low: number;
  high: number;
  step: number;
  value: number;
  onChange: (value: number) => void;
  say?: (value: number) => string;
}

function Bar({ name, low, high, step, value, onChange, say }: BarProps) {
  const digits = step < 0.1 ? 2 : step < 1 ? 1 : 0;
  return (
    <Slider.Root
      className="slider"
      min={low}
      max={high}
      step={step}
      largeStep={step * 10}
      value={value}
      onValueChange={(next) => onChange(Number((next as number).toFixed(digits)))}
    >
      <Slider.Control className="slider-control">
        <Slider.Track className="slider-track">
          <Slider.Indicator className="slider-fill" />
          <Slider.Thumb className="slider-thumb" aria-label={name} getAriaValueText={say ? (_, at) => say(at) : undefined} />
        </Slider.Track>
      </Slider.Control>
    </Slider.Root>
  );
}

interface NumberProps {
  name: string;
  value: number | undefined;
  placeholder: string;
  low: number;
  high: number;
  whole: boolean;
  onChange: (value: number | undefined) => void;
}

/** A number that is told when it is one and within its bounds; an empty field is "not set". */
function NumberField({ name, value, placeholder, low, high, whole, onChange }: NumberProps) {
  const [text, setText] = useState(value === undefined ? "" : String(value));
  useEffect(() => {
    setText((before) => (before !== "" && Number(before) === value ? before : value === undefined ? "" : String(value)));
  }, [value]);
  const number = Number(text);
  const good = text.trim() === "" || (Number.isFinite(number) && number >= low && number <= high && (!whole || Number.isInteger(number)));
  return (
    <input
      className="field number"
      inputMode={whole && low >= 0 ? "numeric" : "text"}
      aria-label={name}
      aria-invalid={!good}
      placeholder={placeholder}
      value={text}
      onChange={(event) => {
        const next = event.target.value;
        setText(next);
        const n = Number(next);
        if (next.trim() === "") onChange(undefined);
        else if (Number.isFinite(n) && n >= low && n <= high && (!whole || Number.isInteger(n))) onChange(n);
      }}
      onBlur={() => good || setText(value === undefined ? "" : String(value))}
    />
  );
}

function Stops({ value, onChange }: { value: string[] | undefined; onChange: (value: string[] | undefined) => void }) {
  const words = useWords();
  const joined = value?.join("\n") ?? "";
  const [text, setText] = useState(joined);
  useEffect(() => {
    if (lines(text)?.join("\n") !== (value?.join("\n") ?? undefined)) setText(joined);
  }, [joined]);
  return (
    <Param
      name="stop"
      set={value !== undefined}
      onReset={() => onChange(undefined)}
      below={
        <textarea
          className="field"
          rows={2}
          aria-label={words.params.stop![0]}
          value={text}
          onChange={(event) => {
            setText(event.target.value);
            onChange(lines(event.target.value));
          }}
        />
      }
    >
      <span />
    </Param>
  );
}

function lines(text: string): string[] | undefined {
  const found = text.split("\n").filter((line) => line !== "").slice(0, 64);
  return found.length ? found : undefined;
}
