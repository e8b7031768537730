// A Predict box takes the reader's answers, and where a question is answered the page shows guess and measurement
// side by side. The answers stay in this browser (localStorage). Without JavaScript, in print and in JupyterLab
// the box is plain text and each answer is a plain line: nothing is missing.
//
// Box k of a page with questions 1, 2, … (an ordered list) asks questions "k.1", "k.2", …; a box without a list asks
// "k". figures.style.answer("1.2", …) leaves <div class="steel-answer" data-question="1.2" data-value="46"
// data-low="44" data-high="48" data-unit="days">: value, low and high only where the answer is a number.
(() => {
  const key = (question) => `steel-guess:${location.pathname.split("/").pop()}:${question}`;
  const load = (question) => { try { return localStorage.getItem(key(question)) || ""; } catch { return ""; } };
  const store = (question, text) => { try { localStorage.setItem(key(question), text); } catch { /* private window */ } };
  const element = (name, text, kind) => Object.assign(document.createElement(name), { textContent: text || "", className: kind || "" });

  // "1,200", "58 %", "about 46 days", "2e-7", "−3" -> number, else null
  const number = (text) => {
    const found = text.replace(/[−–]/g, "-").replace(/(\d)[, ](?=\d{3}\b)/g, "$1").match(/-?\d*\.?\d+(?:e[+-]?\d+)?/i);
    return found ? Number(found[0]) : null;
  };

  // One line from the lowest to the highest of guess, measurement and seeds.
  const line = (guess, value, low, high, unit) => {
    const all = [guess, value, low, high].filter((x) => x !== null), lowest = Math.min(...all), highest = Math.max(...all);
    const far = lowest > 0 && highest / lowest > 30; // orders of magnitude apart: a logarithmic line
    const scale = far ? Math.log : (x) => x, span = scale(highest) - scale(lowest) || 1;
    const at = (x) => 30 + (340 * (scale(x) - scale(lowest))) / span;
    const mark = (x, y, css, label) => `<g class="${css}"><circle cx="${at(x)}" cy="24" r="5"/><text x="${at(x)}" y="${y}">${label}</text></g>`;
    const range = low === null || high === null ? "" : `<line class="seeds" x1="${at(low)}" x2="${at(high)}" y1="24" y2="24"/>`;
    const spoken = `guess ${guess}, measured ${value} ${unit}` + (range ? `, seeds ${low} to ${high}` : "");
    return `<svg viewBox="0 0 400 48" role="img" aria-label="${spoken}"><line class="axis" x1="30" x2="370" y1="24" y2="24"/>${range}` +
      mark(guess, 44, "guess", "you") + mark(value, 12, "measured", "measured") + "</svg>";
  };

  const reveal = (place) => {
    const { question, value, low, high, unit = "" } = place.dataset, text = load(question);
    place.querySelector(".steel-guess")?.remove();
    if (!text) return;
    const note = element("div", "", "steel-guess");
    note.append(element("span", `Your answer: ${text}`));
    const guess = number(text), [measured, a, b] = [value, low, high].map((x) => (x === undefined ? null : Number(x)));
    if (guess !== null && measured !== null) {
      const holder = element("div");
      holder.innerHTML = line(guess, measured, a, b, unit);
      note.append(holder.firstChild);
    }
    place.append(note);
  };

  const ask = (question, after, label) => {
    const input = Object.assign(element("input", "", "steel-predict"), { type: "text", value: load(question), placeholder: "your answer", autocomplete: "off" });
    input.setAttribute("aria-label", label);
    input.addEventListener("input", () => {
      store(question, input.value.trim());
      document.querySelectorAll(`.steel-answer[data-question="${question}"]`).forEach(reveal);
    });
    after.append(input);
  };

  const run = () => {
    document.querySelectorAll("div.admonition.predict").forEach((box, i) => {
      const items = box.querySelectorAll(":scope > ol > li");
      items.forEach((item, j) => ask(`${i + 1}.${j + 1}`, item, `Your answer to question ${j + 1}`));
      if (!items.length) ask(`${i + 1}`, box, "Your answer");
    });
    document.querySelectorAll(".steel-answer").forEach(reveal);
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", run);
  else run();
})();
