(function () {
  var list = document.getElementById("cards");
  if (!list) return;
  var cards = Array.prototype.slice.call(list.children);
  var by = { outcome: "", principle: "", agree: "", text: "", sort: "" };
  function show() {
    var n = 0, words = by.text.toLowerCase();
    cards.forEach(function (c) {
      var on = (!by.outcome || c.dataset.outcome === by.outcome) &&
        (!by.principle || c.dataset.principle === by.principle) &&
        (!by.agree || c.dataset.agree === by.agree) &&
        (!words || c.textContent.toLowerCase().indexOf(words) >= 0);
      c.hidden = !on;
      if (on) n += 1;
    });
    document.getElementById("shown").textContent = n + " of " + cards.length + " cards";
    var order = cards.slice();
    if (by.sort === "close") order.sort(function (a, b) { return a.dataset.margin - b.dataset.margin; });
    if (by.sort === "sure") order.sort(function (a, b) { return b.dataset.margin - a.dataset.margin; });
    order.forEach(function (c) { list.appendChild(c); });
  }
  Object.keys(by).forEach(function (name) {
    var control = document.getElementById("by-" + name);
    if (control) control.addEventListener("input", function () { by[name] = control.value; show(); });
  });
  document.getElementById("controls").hidden = false;
  show();
})();
