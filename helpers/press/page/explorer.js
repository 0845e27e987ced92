"use strict";
// Moves the sliders of every explorer: a position is a picture, a line, and the numbers of its cells, all in the page.
for (const data of document.querySelectorAll(".explorer > script")) {
  const {title, axes, frames, lines, cells, positions} = JSON.parse(data.textContent);
  const root = data.parentElement;
  const find = name => root.querySelector(name);
  const [box, stage, picture, ring] = [".controls", ".output_png", "img", ".ring"].map(find);
  const [word, said] = [".cell", ".line"].map(find);
  const controls = [...box.children];
  const at = axes.map(axis => axis.start);
  const cursor = {panel: 0, row: 0, column: 0};
  let grid = null;

  const set = (n, place) => {
    at[n] = place;
    const [input] = controls[n].querySelectorAll("input, select");
    if (input.type === "radio") controls[n].querySelectorAll("input")[place].checked = true;
    else if (input.type === "range") input.value = place;
    else input.selectedIndex = place;
    if (input.type !== "range") return;
    const text = axes[n].words[place];
    input.setAttribute("aria-valuetext", text);
    controls[n].querySelector("output").textContent = text;
  };

  const position = places => positions[axes.reduce((sum, {words}, n) => sum * words.length + places[n], 0)];

  const show = () => {
    const [frame, line, cell] = position(at);
    axes.forEach(({words}, n) => {
      const rests = words.every((_, place) => String(position(Object.assign([...at], {[n]: place}))) === String(position(at)));
      controls[n].classList.toggle("rests", rests);  // there is nothing that it changes
      for (const input of controls[n].querySelectorAll("input, select")) input.disabled = rests;
    });
    root.classList.toggle("nothing", !frames[frame]);
    if (frames[frame]) picture.src = "data:image/webp;base64," + frames[frame];
    said.textContent = lines[line];
    grid = cells[cell];
    word.hidden = !grid;
    if (grid && !ring.hidden) point(cursor.panel, cursor.row, cursor.column);
    else ring.hidden = true;
  };

  const read = ({decimals, numbers}, index) => {
    const number = Number(numbers.split(" ")[index]) / 10 ** decimals;
    return Number.isNaN(number) ? "–" : number.toFixed(decimals).replace("-", "−");
  };

  // Put the ring around a cell and say its numbers; what lies outside of the panels is brought inside.
  const point = (panel, row, column) => {
    panel = Math.max(0, Math.min(panel, grid.panels.length - 1));
    const {name, box: [left, top, width, height], rows, columns} = grid.panels[panel];
    row = Math.max(0, Math.min(row, rows - 1));
    column = Math.max(0, Math.min(column, columns - 1));
    Object.assign(cursor, {panel, row, column});
    const before = grid.panels.slice(0, panel).reduce((sum, each) => sum + each.rows * each.columns, 0);
    const numbers = grid.values.map(value => `${value.label} ${read(value, before + row * columns + column)}`.trim());
    const place = [row, column].reduce((text, n, k) => text.replace("{}", grid.first[k] + n), grid.place);
    word.textContent = `${name}, ${place}: ${numbers.join(", ")}`;
    ring.hidden = false;
    const edges = {left: left + column * width / columns, top: top + row * height / rows};
    Object.assign(edges, {width: width / columns, height: height / rows});
    for (const [edge, share] of Object.entries(edges)) ring.style[edge] = 100 * share + "%";
  };

  picture.addEventListener("pointermove", ({clientX, clientY}) => {
    if (!grid) return;
    const whole = picture.getBoundingClientRect();
    const [x, y] = [(clientX - whole.left) / whole.width, (clientY - whole.top) / whole.height];
    const inside = ({box: [left, top, width, height]}) => x >= left && x < left + width && y >= top && y < top + height;
    const panel = grid.panels.findIndex(inside);
    if (panel < 0) return;
    const {box: [left, top, width, height], rows, columns} = grid.panels[panel];
    point(panel, Math.floor((y - top) / height * rows), Math.floor((x - left) / width * columns));
  });

  stage.addEventListener("keydown", event => {
    const step = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]}[event.key];
    if (!grid || !step) return;
    event.preventDefault();
    let {panel, row, column} = cursor;
    if (!ring.hidden) {
      [row, column] = [row + step[0], column + step[1]];
      const over = column < 0 ? -1 : column >= grid.panels[panel].columns ? 1 : 0;  // on to the panel beside it
      if (over && grid.panels[panel + over]) [panel, column] = [panel + over, over < 0 ? Infinity : 0];
    }
    point(panel, row, column);
    ring.scrollIntoView({block: "nearest", inline: "nearest"});
  });

  controls.forEach((control, n) => control.addEventListener("input", ({target}) => {
    set(n, target.matches("select") ? target.selectedIndex : Number(target.value));
    show();
  }));
  box.hidden = false;
  picture.alt = title;  // the line says the rest
  show();
}
