"use strict";
// The data of the page: JSON in packed pieces, each in an element of its own that no browser runs.

const PIECES_KEPT = 24;

/** Returns the content of a packed element. */
async function unpacked(id) {
  const raw = atob(document.getElementById(id).textContent);
  const bytes = new Uint8Array(raw.length);
  for (let place = 0; place < raw.length; place++) bytes[place] = raw.charCodeAt(place);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

/** A long list, of which the pieces that were used last are kept. */
class LongList {
  /** `starts` has the index of the first item of each piece, `name-0`, `name-1` and so on. */
  constructor(name, starts) {
    this.name = name;
    this.starts = starts;
    this.kept = new Map();
  }

  /** Returns all items of a piece. */
  async piece(place) {
    const found = this.kept.get(place) ?? unpacked(`${this.name}-${place}`);
    this.kept.delete(place);
    this.kept.set(place, found);
    if (this.kept.size > PIECES_KEPT) this.kept.delete(this.kept.keys().next().value);
    return found;
  }

  /** Returns one item. */
  async item(index) {
    let low = 0;
    let high = this.starts.length;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (this.starts[middle] <= index) low = middle;
      else high = middle;
    }
    return (await this.piece(low))[index - this.starts[low]];
  }
}
