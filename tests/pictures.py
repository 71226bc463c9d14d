"""Pictures of pages for the documentation: PNG files of 256 colours, a third as large."""

import base64
import struct
import zlib
from pathlib import Path
from typing import Any

# The browser that took a picture also reads it: colours are counted in steps of 8, the 255 most
# frequent stay, and every other one becomes the nearest of them.
FEWER = """async (data) => {
  const shot = await createImageBitmap(await (await fetch(`data:image/png;base64,${data}`)).blob());
  const { width, height } = shot;
  const drawing = new OffscreenCanvas(width, height).getContext("2d");
  drawing.drawImage(shot, 0, 0);
  const pixels = drawing.getImageData(0, 0, width, height).data;
  const keys = new Uint16Array(width * height), counts = new Map(), exact = new Map();
  for (let i = 0; i < keys.length; i++) {
    const [r, g, b] = pixels.subarray(4 * i, 4 * i + 3);
    keys[i] = ((r >> 3) << 10) | ((g >> 3) << 5) | (b >> 3);
    counts.set(keys[i], (counts.get(keys[i]) ?? 0) + 1);
    const colour = (r << 16) | (g << 8) | b, seen = exact.get(keys[i]) ?? new Map();
    exact.set(keys[i], seen.set(colour, (seen.get(colour) ?? 0) + 1));
  }
  const most = (map) => [...map].sort((a, b) => b[1] - a[1]).map(([key]) => key);
  const kept = most(counts).slice(0, 255);
  const palette = kept.map((key) => most(exact.get(key))[0]);
  const parts = (c) => [(c >> 16) & 255, (c >> 8) & 255, c & 255];
  const far = (a, b) => parts(a).reduce((sum, v, n) => sum + (v - parts(b)[n]) ** 2, 0);
  const places = new Map(kept.map((key, place) => [key, place]));
  for (const key of counts.keys()) {
    if (places.has(key)) continue;
    const colour = most(exact.get(key))[0];
    let nearest = 0;
    palette.forEach((c, n) => { if (far(c, colour) < far(palette[nearest], colour)) nearest = n; });
    places.set(key, nearest);
  }
  const indices = Uint8Array.from(keys, (key) => places.get(key));
  let text = "";
  for (let i = 0; i < indices.length; i += 8192) {
    text += String.fromCharCode(...indices.subarray(i, i + 8192));
  }
  return { width, height, palette, indices: btoa(text) };
}"""


def keep(page: Any, path: Path, full: bool = False) -> None:
    """Write what a page shows as a PNG file."""
    data = base64.b64encode(page.screenshot(full_page=full)).decode()
    reader = page.context.browser.new_page()  # without the rules of the page that is shown
    try:
        seen = reader.evaluate(FEWER, data)
    finally:
        reader.close()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(seen["width"], seen["palette"], base64.b64decode(seen["indices"])))


def png(width: int, palette: list[int], indices: bytes) -> bytes:
    """A PNG file of a palette (0xRRGGBB) and the colour's place for each pixel, row by row."""
    rows = [indices[start : start + width] for start in range(0, len(indices), width)]
    head = struct.pack(">IIBBBBB", width, len(rows), 8, 3, 0, 0, 0)
    colours = b"".join(colour.to_bytes(3, "big") for colour in palette)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows), 9)
    chunks = ((b"IHDR", head), (b"PLTE", colours), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, body) for kind, body in chunks)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
