"use strict";
// Draws the figures with plotly.js, in the colours of the reader's theme, and copies code on a click.
// Without scripts the page is complete too: each figure is then its PNG file.
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const touch = matchMedia("(pointer: coarse)");
  const BUTTONS = [["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]];
  const plots = [];

  const colour = (name) =>
    getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

  const themed = (layout) => {
    const axis = {
      gridcolor: colour("line"), linecolor: colour("soft"), zeroline: false, automargin: true,
      showline: true, ticks: "outside", tickcolor: colour("line"), nticks: 7,
    };
    const axes = Object.keys(layout).filter((key) => /^[xy]axis/.test(key));
    return {
      ...layout,
      ...Object.fromEntries(axes.map((key) => [key, { ...axis, ...layout[key] }])),
      margin: { l: 44, r: 12, ...layout.margin },
      font: { family: "system-ui, sans-serif", size: 12, color: colour("ink") },
      hoverlabel: { bgcolor: colour("block"), bordercolor: colour("soft"), align: "left",
        font: { color: colour("ink") }, namelength: -1 },
      paper_bgcolor: "transparent", plot_bgcolor: "transparent", showlegend: false,
      modebar: { bgcolor: "transparent", color: colour("line"), activecolor: colour("soft") },
      hovermode: "closest", uirevision: "kept", barmode: "overlay",
      dragmode: touch.matches ? false : "zoom",  // a finger scrolls the page; zoom by the buttons
    };
  };

  // Of the curves' colours only black is invisible on a dark page.
  const seen = (trace) => {
    const black = ["line", "marker"].filter((part) => trace[part]?.color === "#000000");
    const ink = black.map((part) => [part, { ...trace[part], color: colour("ink") }]);
    return { ...trace, ...Object.fromEntries(ink) };
  };

  const show = ({ box, plot, hidden }) => {
    const data = plot.data.map((trace, i) =>
      ({ ...seen(trace), visible: !plot.groups[i].some((group) => hidden.has(group)) }));
    const config = { responsive: true, displaylogo: false, modeBarButtons: BUTTONS,
      displayModeBar: touch.matches ? true : "hover" };
    Plotly.react(box, data, { ...themed(plot.layout), height: plot.height }, config);
  };

  const draw = (figure) => {
    const hidden = new Set();
    const boxes = figure.querySelectorAll(".plot");
    const own = JSON.parse(figure.querySelector("script").textContent)
      .map((plot, i) => ({ box: boxes[i], plot, hidden }));
    figure.classList.add("live");  // before drawing: what is not displayed has no width
    try {
      own.forEach(show);
    } catch (error) {
      figure.classList.remove("live");  // the picture stays, and so do the other figures
      reportError(error);
      return;
    }
    plots.push(...own);
    figure.querySelectorAll(".legend button").forEach((button, i) =>
      button.addEventListener("click", () => {
        if (!hidden.delete(i)) hidden.add(i);
        button.setAttribute("aria-pressed", String(!hidden.has(i)));
        own.forEach(show);
      }));
  };

  const copied = async (block) => {
    try {
      await navigator.clipboard.writeText(block.textContent);
      return true;
    } catch {  // some browsers keep the clipboard from pages of file://
      getSelection().selectAllChildren(block);
      return document.execCommand("copy");
    }
  };

  document.documentElement.classList.add("scripted");
  for (const button of document.querySelectorAll("button.copy")) {
    button.addEventListener("click", async () => {
      const done = await copied(button.parentElement.querySelector("pre"));
      button.textContent = done ? "Copied" : "Selected";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }
  dark.addEventListener("change", () => plots.forEach(show));
  let opened = [];  // on paper nobody can open a table
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    opened.forEach((table) => { table.open = true; });
  });
  addEventListener("afterprint", () => opened.forEach((table) => { table.open = false; }));
  document.querySelectorAll("figure").forEach(draw);
})();
