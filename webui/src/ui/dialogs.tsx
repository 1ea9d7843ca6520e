import { AlertDialog } from "@base-ui/react/alert-dialog";
import { Dialog } from "@base-ui/react/dialog";
import { KeyRound, X } from "lucide-react";
import { useState, type ReactNode } from "react";
import { apiKey } from "../api/client";
import { useWords } from "../i18n";
import { useServer } from "../store/server";

interface Opened {
  open: boolean;
  onOpenChange: (open: boolean) => void;
}

function Box({ open, onOpenChange, title, children }: Opened & { title: ReactNode; children: ReactNode }) {
  const words = useWords();
  return (
    <Dialog.Root open={open} onOpenChange={(next) => onOpenChange(next)}>
      <Dialog.Portal>
        <Dialog.Backdrop className="backdrop" />
        <Dialog.Popup className="dialog">
          <Dialog.Title className="dialog-title">{title}</Dialog.Title>
          <Dialog.Close className="icon-button corner" aria-label={words.close}>
            <X size={18} />
          </Dialog.Close>
          {children}
        </Dialog.Popup>
      </Dialog.Portal>
    </Dialog.Root>
  );
}

/** Asks for the API key when the server wants one. */
export function KeyDialog() {
  const words = useWords();
  const { askKey, giveKey, closeKey } = useServer();
  const [key, setKey] = useState("");
  const [wrong, setWrong] = useState(false);
  const submit = async () => {
    await giveKey(key);
    const bad = useServer.getState().status === "unauthorized";
    setWrong(bad);
    if (bad) apiKey.set("");
    else setKey("");
  };
  return (
    <Box
      open={askKey}
      onOpenChange={(open) => open || closeKey()}
      title={
        <>
          <KeyRound size={18} /> {words.keyTitle}
        </>
      }
    >
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void submit();
        }}
      >
        <Dialog.Description className="quiet">{words.keyText}</Dialog.Description>
        <input
          className="field"
          type="password"
          aria-label={words.keyField}
          placeholder={words.keyField}
          autoComplete="off"
          value={key}
          onChange={(e) => setKey(e.target.value)}
          autoFocus
        />
        {wrong ? (
          <p className="bad-text" role="alert">
            {words.keyWrong}
          </p>
        ) : null}
        <div className="dialog-buttons">
          <button className="button primary" type="submit" disabled={!key.trim()}>
            {words.useKey}
          </button>
        </div>
      </form>
    </Box>
  );
}

export function HelpDialog({ open, onOpenChange }: Opened) {
  const { keys } = useWords();
  const mac = /Mac|iPhone|iPad/.test(navigator.platform);
  const control = mac ? "⌘" : "Ctrl";
  const rows: [string[], string][] = [
    [["Enter"], keys.send],
    [["Shift", "Enter"], keys.newline],
    [["Esc"], keys.stop],
    [["↑"], keys.edit],
    [[control, "Shift", "O"], keys.newChat],
    [[control, "K"], keys.search],
    [[control, "."], keys.panel],
    [[control, "/"], keys.help],
  ];
  return (
    <Box open={open} onOpenChange={onOpenChange} title={keys.title}>
      <dl className="keys">
        {rows.map(([combination, text]) => (
          <div key={text}>
            <dt>{text}</dt>
            <dd>
              {combination.map((key) => (
                <kbd key={key}>{key}</kbd>
              ))}
            </dd>
          </div>
        ))}
      </dl>
    </Box>
  );
}

interface ConfirmProps extends Opened {
  title: string;
  text: string;
  action: string;
  onConfirm: () => void;
}

export function Confirm({ open, onOpenChange, title, text, action, onConfirm }: ConfirmProps) {
  const words = useWords();
  return (
    <AlertDialog.Root open={open} onOpenChange={(next) => onOpenChange(next)}>
      <AlertDialog.Portal>
        <AlertDialog.Backdrop className="backdrop" />
        <AlertDialog.Popup className="dialog">
          <AlertDialog.Title className="dialog-title">{title}</AlertDialog.Title>
          <AlertDialog.Description className="quiet">{text}</AlertDialog.Description>
          <div className="dialog-buttons">
            <AlertDialog.Close className="button">{words.cancel}</AlertDialog.Close>
            <AlertDialog.Close className="button danger" onClick={onConfirm}>
              {action}
            </AlertDialog.Close>
          </div>
        </AlertDialog.Popup>
      </AlertDialog.Portal>
    </AlertDialog.Root>
  );
}
