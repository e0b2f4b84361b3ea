// The drawing area, and what the model sees of it.

const SIZE = 28;
const INSIDE = 20;

export class Drawing {
  /** `changed` is called after each stroke. */
  constructor(canvas, changed) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { willReadFrequently: true });
    this.changed = changed;
    this.clear();
    let drawing = false;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      drawing = true;
      this.context.beginPath();
      this.line(event);
    });
    canvas.addEventListener("pointermove", (event) => drawing && this.line(event));
    for (const end of ["pointerup", "pointercancel"])
      canvas.addEventListener(end, () => {
        if (drawing) this.changed();
        drawing = false;
      });
  }

  line(event) {
    const scale = this.canvas.width / this.canvas.clientWidth;
    const [x, y] = [event.offsetX * scale, event.offsetY * scale];
    Object.assign(this.context, { strokeStyle: "#fff", lineWidth: 22, lineCap: "round", lineJoin: "round" });
    this.context.lineTo(x, y);
    this.context.stroke();
    this.empty = false;
  }

  clear() {
    this.context.fillStyle = "#000";
    this.context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    this.empty = true;
  }

  /** Shows 28×28 pixels from 0 to 1. */
  show(pixels) {
    const small = new ImageData(SIZE, SIZE);
    pixels.forEach((value, i) => small.data.set([value * 255, value * 255, value * 255, 255], 4 * i));
    const source = new OffscreenCanvas(SIZE, SIZE);
    source.getContext("2d").putImageData(small, 0, 0);
    this.context.drawImage(source, 0, 0, this.canvas.width, this.canvas.height);
    this.empty = false;
  }

  /** 28×28 pixels from 0 to 1 as MNIST has them: the digit fits into 20×20, its centre of mass is in the middle. */
  pixels() {
    const { width, height } = this.canvas;
    const ink = this.context.getImageData(0, 0, width, height).data;
    const box = { left: width, right: 0, top: height, bottom: 0 };
    let [mass, sumX, sumY] = [0, 0, 0];
    for (let y = 0; y < height; y++)
      for (let x = 0; x < width; x++) {
        const value = ink[4 * (y * width + x)];
        if (value < 32) continue;
        Object.assign(box, { left: Math.min(box.left, x), right: Math.max(box.right, x) });
        Object.assign(box, { top: Math.min(box.top, y), bottom: Math.max(box.bottom, y) });
        [mass, sumX, sumY] = [mass + value, sumX + value * x, sumY + value * y];
      }
    if (!mass) return new Float32Array(SIZE * SIZE);
    const scale = INSIDE / Math.max(box.right - box.left + 1, box.bottom - box.top + 1);
    const small = new OffscreenCanvas(SIZE, SIZE).getContext("2d");
    small.imageSmoothingQuality = "high";
    small.setTransform(scale, 0, 0, scale, SIZE / 2 - (scale * sumX) / mass, SIZE / 2 - (scale * sumY) / mass);
    small.drawImage(this.canvas, 0, 0);
    const { data } = small.getImageData(0, 0, SIZE, SIZE);
    return Float32Array.from({ length: SIZE * SIZE }, (_, i) => data[4 * i] / 255);
  }
}
