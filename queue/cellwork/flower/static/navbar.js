// Puts our links where Flower's own are. Without scripts they stand below.
"use strict";
(function () {
  const bar = document.querySelector(".app-nav:not(.cellwork-nav)");
  const ours = document.getElementById("cellwork-nav");
  if (bar && ours) {
    bar.append(...ours.children);
    ours.remove();
  }
  const logs = document.getElementById("cellwork-logs");
  const actions = document.querySelector(".detail-actions");
  if (logs && actions) {
    actions.prepend(logs);
  }
})();
