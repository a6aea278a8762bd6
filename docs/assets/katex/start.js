// The theme replaces pages without a reload, so the formulas of each one are set when it appears.
document$.subscribe(({ body }) => {
  renderMathInElement(body, { delimiters: [{ left: "\\(", right: "\\)" }, { left: "\\[", right: "\\]", display: true }] });
});
