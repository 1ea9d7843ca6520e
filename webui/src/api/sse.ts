/** The `data` of each server-sent event, as events are completed by the bytes that come in. */
export class EventReader {
  private decoder = new TextDecoder();
  private rest = "";

  feed(bytes: Uint8Array): string[] {
    this.rest += this.decoder.decode(bytes, { stream: true });
    const events: string[] = [];
    for (;;) {
      const end = /\r?\n\r?\n/.exec(this.rest);
      if (!end) return events;
      const data = this.rest
        .slice(0, end.index)
        .split(/\r?\n/)
        .filter((line) => line.startsWith("data:"))
        .map((line) => line.slice(line.startsWith("data: ") ? 6 : 5))
        .join("\n");
      this.rest = this.rest.slice(end.index + end[0].length);
      if (data) events.push(data);
    }
  }
}
