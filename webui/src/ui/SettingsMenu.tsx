import { Menu } from "@base-ui/react/menu";
import { Check } from "lucide-react";
import { useWords, type Language } from "../i18n";
import { useSettings, type Theme } from "../store/settings";

/** Language, colours and the list of keys, as items of a menu. */
export function SettingsItems({ onHelp }: { onHelp: () => void }) {
  const words = useWords();
  const { language, theme, set } = useSettings();
  const languages: [Language, string][] = [
    ["en", "English"],
    ["zh", "简体中文"],
  ];
  return (
    <>
      <Menu.RadioGroup value={language} onValueChange={(value: Language) => set({ language: value })}>
        <div className="menu-label">{words.language}</div>
        {languages.map(([value, name]) => (
          <Radio key={value} value={value} text={name} />
        ))}
      </Menu.RadioGroup>
      <Menu.Separator className="menu-line" />
      <Menu.RadioGroup value={theme} onValueChange={(value: Theme) => set({ theme: value })}>
        <div className="menu-label">{words.theme}</div>
        {(["auto", "light", "dark"] as const).map((value) => (
          <Radio key={value} value={value} text={words.themes[value]} />
        ))}
      </Menu.RadioGroup>
      <Menu.Separator className="menu-line" />
      <Menu.Item className="menu-item" onClick={onHelp}>
        {words.help}
        <kbd>Ctrl /</kbd>
      </Menu.Item>
    </>
  );
}

function Radio({ value, text }: { value: string; text: string }) {
  return (
    <Menu.RadioItem className="menu-item" value={value}>
      {text}
      <Menu.RadioItemIndicator className="menu-check">
        <Check size={15} />
      </Menu.RadioItemIndicator>
    </Menu.RadioItem>
  );
}
