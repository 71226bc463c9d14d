"""Pictures of pages for the documentation: PNG files of 256 colours, a third as large."""

import base64
import struct
import zlib
from pathlib import Path
from typing import Any

# The browser that took a picture also reads it: of colours that are alike in steps of 8 the most
# frequent one stays, of those the 255 most frequent, and every other one becomes the nearest.
FEWER = """async (data) => {
  const shot = await createImageBitmap(await (await fetch(`data:image/png;base64,${data}`)).blob());
  const { width, height } = shot;
  const drawing = new OffscreenCanvas(width, height).getContext("2d");
  drawing.drawImage(shot, 0, 0);
  const pixels = new Uint32Array(drawing.getImageData(0, 0, width, height).data.buffer);
  const counts = new Map();
  for (const pixel of pixels) counts.set(pixel, (counts.get(pixel) ?? 0) + 1);
  const alike = new Map(); // the first is the most frequent
  for (const [pixel, count] of [...counts].sort((a, b) => b[1] - a[1])) {
    const key = pixel & 0xf8f8f8, seen = alike.get(key) ?? { pixel, count: 0 };
    alike.set(key, seen);
    seen.count += count;
  }
  const kept = [...alike.values()].sort((a, b) => b.count - a.count).slice(0, 255);
  const parts = kept.map(({ pixel: p }) => [p & 255, (p >> 8) & 255, (p >> 16) & 255]);
  const nearest = (p) => {
    let [best, least] = [0, Infinity];
    for (let n = 0; n < parts.length; n++) {
      const [r, g, b] = parts[n];
      const far = (r - (p & 255)) ** 2 + (g - ((p >> 8) & 255)) ** 2 + (b - ((p >> 16) & 255)) ** 2;
      if (far < least) [best, least] = [n, far];
    }
    return best;
  };
  const places = new Map([...counts.keys()].map((pixel) => [pixel, nearest(pixel)]));
  const indices = Uint8Array.from(pixels, (pixel) => places.get(pixel));
  let text = "";
  for (let i = 0; i < indices.length; i += 8192) {
    text += String.fromCharCode(...indices.subarray(i, i + 8192));
  }
  return { width, palette: parts.map(([r, g, b]) => (r << 16) | (g << 8) | b), indices: btoa(text) };
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
