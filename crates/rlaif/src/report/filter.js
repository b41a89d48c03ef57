(function () {
  // A control `by-NAME` shows the cards whose `data-NAME` is its value; `by-text` searches, and
  // `by-sort` names the number to sort by, with a minus for the largest first.
  var list = document.getElementById("cards");
  if (!list) return;
  var cards = Array.prototype.slice.call(list.children);
  var controls = Array.prototype.slice.call(document.querySelectorAll("#controls [id^=by-]"));
  function value(name) {
    var control = document.getElementById("by-" + name);
    return control ? control.value : "";
  }
  function show() {
    var n = 0, words = value("text").toLowerCase();
    cards.forEach(function (c) {
      var on = !words || c.textContent.toLowerCase().indexOf(words) >= 0;
      controls.forEach(function (control) {
        var name = control.id.slice(3);
        if (name !== "text" && name !== "sort" && control.value && c.dataset[name] !== control.value) on = false;
      });
      c.hidden = !on;
      if (on) n += 1;
    });
    document.getElementById("shown").textContent = n + " of " + cards.length + " cards";
    var order = cards.slice(), by = value("sort"), name = by.replace("-", "");
    if (by) order.sort(function (a, b) { return (by === name ? 1 : -1) * (a.dataset[name] - b.dataset[name]); });
    order.forEach(function (c) { list.appendChild(c); });
  }
  controls.forEach(function (control) { control.addEventListener("input", show); });
  document.getElementById("controls").hidden = false;
  show();
})();
