// Figures are stored as <img src="data:image/svg+xml;base64,…"> so that they show anywhere, JupyterLab
// included. In the rendered book this puts the SVG itself into the page and names its house colours as
// CSS variables (steel.css), so that ink and paper follow the theme. Without JavaScript the image stays.
(() => {
  const houseColours = {
    "#1f2933": "ink", "#fcfbf8": "paper", "#dcd9d1": "grid", "#2f5d7c": "steel", "#71808f": "slate", "#d9622b": "furnace",
  };
  const inline = (img, number) => {
    const prefix = "data:image/svg+xml;base64,";
    if (!img.src.startsWith(prefix)) return;
    const bytes = Uint8Array.from(atob(img.src.slice(prefix.length)), (c) => c.charCodeAt(0));
    let text = new TextDecoder().decode(bytes);
    for (const [hex, name] of Object.entries(houseColours)) text = text.replaceAll(hex, `var(--fig-${name})`);
    // ids are unique within one figure only
    text = text.replace(/\bid="/g, `id="f${number}-`).replace(/href="#/g, `href="#f${number}-`).replace(/url\(#/g, `url(#f${number}-`);
    const svg = new DOMParser().parseFromString(text, "image/svg+xml").documentElement;
    if (svg.nodeName !== "svg") return;
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", img.alt);
    svg.removeAttribute("height");
    svg.setAttribute("width", img.style.width || "100%");
    img.replaceWith(svg);
  };
  const run = () => {
    document.querySelectorAll("figure.steel-figure > img").forEach(inline);
    document.querySelectorAll(".cell.tag_hide-cell summary p, .cell.tag_hide-input summary p").forEach((title) => {
      const what = title.closest(".cell").classList.contains("tag_hide-cell") ? "answer" : "code";
      const verb = title.textContent.trim().split(" ")[0];
      if (verb === "Show" || verb === "Hide") title.textContent = `${verb} the ${what}`;
    });
    // Chinese passages get a language tag, so that fonts and line breaking are right
    document.querySelectorAll(".bd-article p, .bd-article li, .bd-article td, .bd-article pre").forEach((block) => {
      const han = (block.textContent.match(/[\u4e00-\u9fff]/g) || []).length;
      if (han > 12 && han > block.textContent.length / 3) block.lang = "zh-CN";
    });
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", run);
  else run();
})();
