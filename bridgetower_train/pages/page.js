"use strict";

// What lies under the pointer, as a line across the plot and a box beside it.
const text = (value) => value.toLocaleString("en", { maximumSignificantDigits: 4 });

const nearest = (sorted, x) => {
  let low = 0, high = sorted.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < x) low = middle; else high = middle;
  }
  return x - sorted[low] < sorted[high] - x ? low : high;
};

const make = (name, parent, content = "") => {
  const made = document.createElement(name);
  made.textContent = content;
  return parent.appendChild(made);
};

for (const plot of document.querySelectorAll(".plot")) {
  const curves = JSON.parse(plot.dataset.curves);
  const [low, high] = JSON.parse(plot.dataset.range);
  const cursor = make("div", plot);
  const box = make("div", cursor);
  cursor.className = "cursor";
  cursor.hidden = true;
  const show = (event) => {
    const area = plot.getBoundingClientRect();
    const x = low + (high - low) * (event.clientX - area.left) / area.width;
    const steps = curves.map((c) => c.steps[nearest(c.steps, x)]);
    const step = steps.reduce((a, b) => (Math.abs(b - x) < Math.abs(a - x) ? b : a));
    box.replaceChildren();
    const { names } = curves[0]; // of the bars of a histogram
    make("b", box, names ? names[curves[0].steps.indexOf(step)] : "step " + step.toLocaleString("en"));
    curves.forEach((curve) => {
      const row = make("span", box);
      make("i", row).style.setProperty("--c", `var(--${curve.colour})`);
      row.append(`${curve.label} `);
      make("em", row, text(curve.values[nearest(curve.steps, step)]));
    });
    const place = (step - low) / (high - low);
    cursor.style.left = 100 * place + "%";
    box.className = place > 0.5 ? "left" : "right";
    cursor.hidden = false;
  };
  plot.addEventListener("pointermove", show);
  plot.addEventListener("pointerdown", show);
  plot.addEventListener("pointerleave", () => { cursor.hidden = true; });
}
