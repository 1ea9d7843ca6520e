import { Select } from "@base-ui/react/select";
import { Check, ChevronDown } from "lucide-react";
import { useWords } from "../i18n";
import { useServer } from "../store/server";

interface Props {
  value: string | null;
  onChange: (model: string | null) => void;
}

/** The models and adapters that the server answers for. */
export function ModelSelect({ value, onChange }: Props) {
  const words = useWords();
  const { models, status } = useServer();
  const chosen = models.find((m) => m.id === value) ?? models[0];
  if (!chosen) return <span className="model quiet">{status === "ready" ? words.noModel : words.status[status]}</span>;
  return (
    <Select.Root value={chosen.id} onValueChange={(id) => onChange(id === models[0]?.id ? null : id)}>
      <Select.Trigger className="model" aria-label={words.model}>
        <span className={`dot ${status}`} title={words.status[status]} />
        <Select.Value>{() => <span className="model-name">{chosen.id}</span>}</Select.Value>
        <Select.Icon>
          <ChevronDown size={15} />
        </Select.Icon>
      </Select.Trigger>
      <Select.Portal>
        <Select.Positioner className="positioner" sideOffset={6} alignItemWithTrigger={false} align="start">
          <Select.Popup className="menu wide">
            {models.map((model) => (
              <Select.Item key={model.id} value={model.id} className="menu-item">
                <Select.ItemText>
                  {model.id}
                  {model.parent ? <small className="quiet"> {words.adapterOf(model.parent)}</small> : null}
                </Select.ItemText>
                <Select.ItemIndicator className="menu-check">
                  <Check size={15} />
                </Select.ItemIndicator>
              </Select.Item>
            ))}
          </Select.Popup>
        </Select.Positioner>
      </Select.Portal>
    </Select.Root>
  );
}
