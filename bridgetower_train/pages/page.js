"use strict";

// What lies under the pointer or was reached by the arrow keys, as a line across the plot and a box beside it.
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
  const all = [...new Set(curves.flatMap((c) => c.steps))].sort((a, b) => a - b);
  const cursor = make("div", plot);
  const box = make("div", cursor);
  cursor.className = "cursor";
  cursor.hidden = true;
  box.role = "status";
  let step;
  const show = (at) => {
    step = at;
    box.replaceChildren();
    const { names } = curves[0]; // of the bars of a histogram
    make("b", box, names ? names[curves[0].steps.indexOf(step)] : "step " + step.toLocaleString("en"));
    curves.forEach((curve) => {
      const row = make("span", box), place = nearest(curve.steps, step);
      make("i", row).style.setProperty("--c", `var(--${curve.colour})`);
      row.append(`${curve.label} `);
      make("em", row, text(curve.values[place]));
      if (curve.logged) row.append(`, logged ${text(curve.logged[place])}`);
    });
    const place = (step - low) / (high - low);
    cursor.style.left = 100 * place + "%";
    box.className = place > 0.5 ? "left" : "right";
    cursor.hidden = false;
  };
  const point = (event) => {
    const area = plot.getBoundingClientRect();
    show(all[nearest(all, low + (high - low) * (event.clientX - area.left) / area.width)]);
  };
  const hide = () => { cursor.hidden = true; };
  plot.addEventListener("pointermove", point);
  plot.addEventListener("pointerdown", point);
  plot.addEventListener("pointerleave", hide);
  plot.addEventListener("blur", hide);
  plot.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!way) return;
    event.preventDefault();
    const next = step === undefined ? (way > 0 ? 0 : all.length - 1) : all.indexOf(step) + way;
    show(all[Math.max(0, Math.min(all.length - 1, next))]);
  });
}
